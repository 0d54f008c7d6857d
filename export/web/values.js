// What stored values mean: to the model, to the screen, and which of them stand for no data. The rules are those of
// rsseg_tf (rasters/nodata.py, predict/pictures.py, datasets/rules.py), as tables of all values of 8 or 16 bits.

const BYTE = 255;
// Values that programs write where there is no data; each counts only far off the range of the data.
const FILL_VALUES = [-999, -9999, -32767, -32768, 9999, 32767, 65535];
const FAR_BELOW = 10, FAR_ABOVE = 1e6; // in widths of the range
const STRETCH = [0.02, 0.98]; // of the values that are shown

/**
 * Says whether the values of an image are those that a model was trained on.
 * @param {{bits: number, signed: boolean}} image
 * @param {number} maxValue of the model
 */
export function fits({ bits, signed }, maxValue) {
  const top = bits === 8 ? BYTE : signed ? 32767 : 65535;
  return maxValue <= top && (bits === 8 || maxValue > BYTE);
}

/** The value that a stored number means: numbers with a sign lie in an array of those without. */
function meanings({ bits, signed }) {
  const length = bits === 8 ? 256 : 65536;
  return Float64Array.from({ length }, (_, value) => (signed && value > 32767 ? value - 65536 : value));
}

/**
 * Makes the tables of the model's input.
 * @param {{bits: number, signed: boolean, nodata: number}} image
 * @param {{max_value: number, mean: number[], std: number[]}} dataset of the model
 * @param {number | null} full value of the image that stands for the model's `max_value`; null for the same one
 * @param {boolean} bytes whether the model takes bytes
 * @returns {{inputs: Float32Array[] | null, absent: Uint8Array[]}} of each band: the model's value of each stored
 *     number, null where all are the same; and 1 where a stored number stands for no data
 */
export function tablesOf(image, dataset, full, bytes) {
  const values = meanings(image);
  const scale = full === null ? 1 : Math.fround(dataset.max_value / full);
  const top = full ?? dataset.max_value;
  let same = scale === 1;
  const inputs = [], absent = [];
  for (let band = 0; band < 3; band++) {
    const { low, high, fill } = rangeOf(image, dataset.mean[band], dataset.std[band], top);
    const input = new Float32Array(values.length), none = new Uint8Array(values.length);
    values.forEach((value, stored) => {
      const declared = value === image.nodata;
      const sentinel = image.bits > 8 && isSentinel(value, low, high);
      none[stored] = declared || sentinel ? 1 : 0;
      const replaced = sentinel || (declared && (value < low || value > high));
      const scaled = Math.fround((replaced ? fill : value) * scale);
      input[stored] = bytes ? even(scaled) : scaled;
      if (input[stored] !== stored) same = false;
    });
    inputs.push(input);
    absent.push(none);
  }
  return { inputs: same ? null : inputs, absent };
}

function rangeOf({ bits }, mean, std, top) {
  const low = mean < std ? top * (mean - 3 * std) : 0;
  const high = mean + std > 1 ? top * Math.max(1, mean + 3 * std) : top;
  return { low, high, fill: bits === 8 ? 0 : even(top * mean) };
}

function isSentinel(value, low, high) {
  const width = high - low;
  if (value < low - FAR_BELOW * width || value > high + FAR_ABOVE * width) return true;
  return FILL_VALUES.includes(value) && (value < low || value > high + width);
}

/** To the nearest whole number, halves to the even one, as NumPy rounds. */
function even(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/**
 * Makes the tables of the screen: bytes as they are, 16 bits stretched band by band from the 2nd to the 98th percentile
 * of the pixels that are data.
 * @returns {Uint8Array[]} of each band: the byte that shows a stored number
 */
export function shownTables(image) {
  if (image.bits === 8) return Array(3).fill(Uint8Array.from({ length: 256 }, (_, value) => value));
  const values = meanings(image);
  const counts = [0, 1, 2].map(() => new Uint32Array(values.length));
  for (let i = 0; i < image.width * image.height; i++) {
    if (image.mask?.[i]) continue;
    const at = i * 3;
    const declared = [0, 1, 2].every((band) => values[image.pixels[at + band]] === image.nodata);
    if (!declared) for (let band = 0; band < 3; band++) counts[band][image.pixels[at + band]]++;
  }
  const order = Uint16Array.from(values.keys()).sort((one, other) => values[one] - values[other]);
  return counts.map((count) => {
    const [low, high] = STRETCH.map((share) => percentile(count, order, values, share));
    const width = Math.max(high - low, 1e-12);
    return Uint8Array.from(values, (value) => Math.min(255, Math.max(0, even(((value - low) * 255) / width))));
  });
}

/** The value below which a share of the pixels lies; between two values, the mean by distance. */
function percentile(counts, order, values, share) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return 0;
  const rank = share * (total - 1);
  const valueAt = (index) => {
    let before = 0;
    for (const stored of order) if ((before += counts[stored]) > index) return values[stored];
    return 0;
  };
  const [first, second] = [valueAt(Math.floor(rank)), valueAt(Math.ceil(rank))];
  return first + (second - first) * (rank - Math.floor(rank));
}

/** The largest value of an image, for the person who has to say what full brightness is. */
export function largestOf(image) {
  const values = meanings(image);
  let largest = -Infinity;
  for (const stored of image.pixels) {
    if (values[stored] > largest && values[stored] !== image.nodata) largest = values[stored];
  }
  return largest;
}
