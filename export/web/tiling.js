// Windows over an image, and the average of their logits where they overlap.
//
// The arithmetic is that of rsseg_tf/inference (logits.py, tiles.py) and rsseg_tf/datasets/tiling.py: sums in float64,
// the average rounded to float32, the lowest id on a tie. Equal logits give equal labels.

import { Unreadable } from "./errors.js";

const NOT_FINITE =
  "The model gives values that are not finite (NaN or infinity) here. Try another browser or device; if it happens " +
  "there too, the weights are damaged: export the model from an earlier checkpoint.";

/** First pixels of the windows along one axis; the last window is shifted back to end with the image. */
export function starts(size, window, stride) {
  const found = [];
  for (let first = 0; first < size - window; first += stride) found.push(first);
  found.push(size - window);
  return found;
}

/**
 * Cuts an image into windows of a tile's size.
 * @param {number} height rows of the image
 * @param {number} width columns of the image
 * @param {[number, number]} tile (height, width) that the model takes
 * @param {[number, number]} stride (down, across) from one window to the next
 * @returns {{rows: number[], columns: number[], height: number, width: number}} first rows and columns of the windows,
 *     and their size, which is less than the tile's where the image is smaller
 */
export function plan(height, width, tile, stride) {
  const size = [Math.min(tile[0], height), Math.min(tile[1], width)];
  return {
    rows: starts(height, size[0], Math.min(stride[0], size[0])),
    columns: starts(width, size[1], Math.min(stride[1], size[1])),
    height: size[0],
    width: size[1],
  };
}

/** Index into 0..size-1 that continues an axis by mirroring, without repeating the border (numpy.pad, "reflect"). */
export function reflected(index, size) {
  if (size === 1) return 0;
  const period = 2 * (size - 1);
  const within = index % period;
  return within < size ? within : period - within;
}

/**
 * Copies one window into the input of the model, extended downwards and to the right by reflection.
 * @param {{width: number, pixels: Uint8Array | Uint16Array}} image three bands, row by row
 * @param {number} top first row of the window
 * @param {number} left first column of the window
 * @param {{height: number, width: number}} size of the window
 * @param {[number, number]} tile (height, width) of the input
 * @param {Uint8Array | Float32Array} input where the pixels go
 */
export function cut(image, top, left, size, tile, input) {
  for (let y = 0; y < tile[0]; y++) {
    const row = (top + reflected(y, size.height)) * image.width;
    const from = (row + left) * 3;
    const to = y * tile[1] * 3;
    input.set(image.pixels.subarray(from, from + size.width * 3), to);
    for (let x = size.width; x < tile[1]; x++) {
      const source = (row + left + reflected(x, size.width)) * 3;
      for (let band = 0; band < 3; band++) input[to + x * 3 + band] = image.pixels[source + band];
    }
  }
}

/** Adds up the logits of windows, row by row of windows, and gives the class of each pixel that is complete. */
export class Blender {
  /**
   * @param {number} height rows of the image
   * @param {number} width columns of the image
   * @param {ReturnType<typeof plan>} windows of the image
   * @param {number} classes how many logits a pixel has
   */
  constructor(height, width, windows, classes) {
    this.height = height;
    this.width = width;
    this.windows = windows;
    this.classes = classes;
    this.across = cover(width, windows.columns, windows.width);
    this.down = cover(height, windows.rows, windows.height);
    this.sums = new Float64Array(windows.height * width * classes); // of the rows from `top` on
    this.top = 0;
    this.labels = new Uint8Array(height * width);
  }

  /** Adds the logits of a window, whose rows are `logitsWidth` pixels apart, at a column of the current row. */
  add(logits, logitsWidth, left) {
    const count = this.windows.width * this.classes;
    for (let y = 0; y < this.windows.height; y++) {
      const from = y * logitsWidth * this.classes;
      const to = (y * this.width + left) * this.classes;
      for (let i = 0; i < count; i++) this.sums[to + i] += logits[from + i];
    }
  }

  /**
   * Ends a row of windows.
   * @param {number} index of the row
   * @returns {[number, number]} first row of pixels that got its classes, and the row after the last one
   */
  finishRow(index) {
    const { rows } = this.windows;
    const next = index + 1 < rows.length ? rows[index + 1] : this.height;
    const done = next - this.top;
    for (let y = 0; y < done; y++) this.#classify(y);
    const step = this.width * this.classes;
    this.sums.copyWithin(0, done * step);
    this.sums.fill(0, this.sums.length - done * step);
    const span = [this.top, next];
    this.top = next;
    return span;
  }

  #classify(y) {
    const row = (this.top + y) * this.width;
    for (let x = 0; x < this.width; x++) {
      const from = (y * this.width + x) * this.classes;
      const windows = this.down[this.top + y] * this.across[x];
      let best = 0;
      let highest = -Infinity;
      for (let id = 0; id < this.classes; id++) {
        const logit = Math.fround(this.sums[from + id] / windows);
        // No comparison with NaN holds: the pixel would come out as class 0.
        if (!Number.isFinite(logit)) throw new Unreadable(NOT_FINITE);
        if (logit > highest) {
          highest = logit;
          best = id;
        }
      }
      this.labels[row + x] = best;
    }
  }
}

/** How many windows cover each position of an axis. */
function cover(size, first, window) {
  const counts = new Uint32Array(size);
  for (const start of first) for (let i = start; i < start + window; i++) counts[i]++;
  return counts;
}
