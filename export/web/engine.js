// What the worker does: messages in, messages out. One image at a time.

import { Unreadable } from "./errors.js";
import { limitMegapixels, readImage } from "./images.js";
import { loadModel } from "./model.js";
import { encodePng } from "./png.js";
import { Blender, cut, plan } from "./tiling.js";

// Larger images are shown at a fraction of their size, as browsers bound canvases; labels keep theirs.
const SHOWN_PIXELS = 24e6, SHOWN_SIDE = 16384;

let model = null;
let image = null;
let labels = null;
let cancelled = false;

/** Does what a message asks; throws Unreadable with what to tell the person. */
export async function handle(message) {
  if (message.type === "load") await load(message);
  else if (message.type === "open") await open(message);
  else if (message.type === "segment") await segment();
  else if (message.type === "cancel") cancelled = true;
  else if (message.type === "png") await png(message);
}

async function load({ base }) {
  model = await loadModel(new URL(base));
  const { manifest, page, threads, checked } = model;
  post({ type: "ready", manifest, page, threads, checked, limit: limitMegapixels() });
}

async function open({ file }) {
  image = labels = null; // first, because two large images may not fit
  image = await readImage(file);
  const step = shownStep();
  const shown = shownPixels(step);
  const ground = image.ground ? { across: image.ground.across, down: image.ground.down } : null;
  post(
    { type: "opened", width: image.width, height: image.height, ground, step, ...shown },
    [shown.rgba.buffer],
  );
}

/** Of how many pixels, across and down, the screen gets one. */
function shownStep() {
  const byArea = Math.sqrt((image.width * image.height) / SHOWN_PIXELS);
  return Math.max(1, Math.ceil(byArea), Math.ceil(Math.max(image.width, image.height) / SHOWN_SIDE));
}

/** The picture for the screen, every `step`-th pixel of it, with the bands that show red, green and blue. */
function shownPixels(step) {
  const width = Math.ceil(image.width / step);
  const height = Math.ceil(image.height / step);
  const rgba = new Uint8ClampedArray(width * height * 4);
  const bands = model.manifest.dataset.rgb_bands;
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 4) {
      const from = (y * step * image.width + x * step) * 3;
      for (let channel = 0; channel < 3; channel++) {
        rgba[to + channel] = image.pixels[from + bands[channel % bands.length]];
      }
      rgba[to + 3] = 255;
    }
  }
  return { shownWidth: width, shownHeight: height, rgba };
}

async function segment() {
  cancelled = false;
  labels = null;
  const { tile } = model;
  const windows = plan(image.height, image.width, tile, model.stride);
  const blender = new Blender(image.height, image.width, windows, model.manifest.dataset.classes.length);
  const total = windows.rows.length * windows.columns.length;
  const began = performance.now();
  let done = 0;
  post({ type: "progress", done, total, seconds: 0 });
  for (const [index, top] of windows.rows.entries()) {
    for (const left of windows.columns) {
      cut(image, top, left, windows, tile, model.input);
      blender.add(await model.run(), tile[1], left);
      post({ type: "progress", done: ++done, total, seconds: (performance.now() - began) / 1000 });
      await breath();
      if (cancelled) {
        post({ type: "cancelled" });
        return;
      }
    }
    const span = blender.finishRow(index);
    maskRows(blender.labels, span);
    postRows(blender.labels, span);
  }
  labels = blender.labels;
  post({ type: "segmented", ...measured(), tiles: total, seconds: (performance.now() - began) / 1000 });
}

/** Pixels of each id, and their square metres on the ground: pixels of one row are equal, those of two need not be. */
function measured() {
  const { width, height, ground } = image;
  const counts = new Array(256).fill(0);
  const areas = ground ? new Array(256).fill(0) : null;
  const inRow = new Uint32Array(256);
  for (let y = 0; y < height; y++) {
    inRow.fill(0);
    for (let i = y * width; i < (y + 1) * width; i++) inRow[labels[i]]++;
    const pixelArea = ground ? ground.rowArea(y) : 0;
    for (let id = 0; id < 256; id++) {
      counts[id] += inRow[id];
      if (areas) areas[id] += inRow[id] * pixelArea;
    }
  }
  return { counts, areas };
}

/** Gives pixels without data the ignored id. */
function maskRows(all, [top, end]) {
  if (!image.mask) return;
  for (let i = top * image.width; i < end * image.width; i++) {
    if (image.mask[i]) all[i] = model.manifest.dataset.ignore_index;
  }
}

/** Sends rows of labels to the screen, at the size at which it shows the image. */
function postRows(all, [top, end]) {
  const step = shownStep();
  const first = Math.ceil(top / step);
  const last = Math.ceil(end / step);
  const width = Math.ceil(image.width / step);
  const rows = new Uint8Array((last - first) * width);
  for (let y = first, to = 0; y < last; y++) {
    for (let x = 0; x < width; x++) rows[to++] = all[y * step * image.width + x * step];
  }
  post({ type: "rows", first, rows }, [rows.buffer]);
}

/** Lets messages in, such as "cancel". */
function breath() {
  return new Promise((resolve) => setTimeout(resolve));
}

/** Makes a file: the class ids, or the picture with the colours of the visible classes over it. */
async function png({ what, opacity, visible, name }) {
  if (!image || !labels) throw new Unreadable("There is no result to save yet.");
  const { width, height } = image;
  const blob =
    what === "labels"
      ? await encodePng(width, height, 1, (y) => labels.subarray(y * width, (y + 1) * width))
      : await encodePng(width, height, 3, overlayRow(opacity, visible));
  post({ type: "saved", blob, name });
}

function overlayRow(opacity, visible) {
  const { palette, rgb_bands: bands } = model.manifest.dataset;
  const line = new Uint8Array(image.width * 3);
  return (y) => {
    for (let x = 0; x < image.width; x++) {
      const id = labels[y * image.width + x];
      const weight = visible[id] ? opacity : 0;
      for (let channel = 0; channel < 3; channel++) {
        const value = image.pixels[(y * image.width + x) * 3 + bands[channel % bands.length]];
        line[x * 3 + channel] = Math.round(value * (1 - weight) + (palette[id]?.[channel] ?? 0) * weight);
      }
    }
    return line;
  };
}

function post(message, transfer = []) {
  self.postMessage(message, transfer);
}
