// TIFF and GeoTIFF files of 8 bits: strips or tiles, not compressed or by LZW or deflate, with or without prediction.

import { Unreadable } from "./errors.js";
import { groundOf } from "./ground.js";
import { inflated } from "./png.js";

const TAGS = {
  width: 256, height: 257, bits: 258, compression: 259, photometric: 262, offsets: 273, samples: 277, rowsPerStrip: 278,
  counts: 279, planar: 284, predictor: 317, palette: 320, tileWidth: 322, tileHeight: 323, tileOffsets: 324,
  tileCounts: 325, extra: 338, sampleFormat: 339, pixelScale: 33550, tiePoints: 33922, transformation: 34264,
  geoKeys: 34735, geoDoubles: 34736, nodata: 42113,
};
const PER_BLOCK = new Set(["offsets", "counts", "tileOffsets", "tileCounts"]); // all others are short
const SHORT = 65536, TEXT = "nodata", TEXT_TYPE = 2;
const LARGEST_BLOCK = 1e8; // pixels
const TILE_STEP = 16; // sides of tiles are multiples of it, by the specification
const TYPE_BYTES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8];
const NONE = 1, LZW = 5, DEFLATE = 8, OLD_DEFLATE = 32946;
const RGB = 2;
const ALPHA = new Set([1, 2]); // premultiplied or not

export function isTiff(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 4));
  return ["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(head);
}

/** Reads the first image directory: numbers as arrays, text as strings, by the names above. */
export function tiffHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const little = bytes[0] === 0x49;
  if (view.getUint16(2, little) !== 42) {
    throw new Unreadable("It is a BigTIFF file, which this page does not read. Save it as TIFF or PNG.");
  }
  try {
    return directory(view, little);
  } catch (error) {
    throw error instanceof RangeError ? damaged("it is cut short") : error;
  }
}

function directory(view, little) {
  const start = view.getUint32(4, little);
  const tags = {};
  const names = Object.fromEntries(Object.entries(TAGS).map(([name, tag]) => [tag, name]));
  for (let i = 0; i < view.getUint16(start, little); i++) {
    const entry = start + 2 + 12 * i;
    const name = names[view.getUint16(entry, little)];
    if (name && !(name in tags)) tags[name] = values(view, entry, little, name);
  }
  const width = tags.width?.[0], height = tags.height?.[0];
  if (!(width > 0 && height > 0)) throw damaged("its header is invalid");
  return { ...tags, width, height };
}

function values(view, entry, little, name) {
  const type = view.getUint16(entry + 2, little);
  const count = view.getUint32(entry + 4, little);
  const bytes = TYPE_BYTES[type] ?? 0;
  const valid = count > 0 && count * bytes <= view.byteLength && (count <= SHORT || PER_BLOCK.has(name));
  if (!valid || (type === TEXT_TYPE) !== (name === TEXT)) throw damaged("its header is invalid");
  const from = bytes * count <= 4 ? entry + 8 : view.getUint32(entry + 8, little);
  const read = {
    1: (at) => view.getUint8(at), 3: (at) => view.getUint16(at, little), 4: (at) => view.getUint32(at, little),
    12: (at) => view.getFloat64(at, little),
  };
  if (type === TEXT_TYPE) return Array.from({ length: count }, (_, i) => String.fromCharCode(view.getUint8(from + i))).join("");
  if (!read[type]) throw damaged("its header is invalid");
  return Array.from({ length: count }, (_, i) => read[type](from + i * bytes));
}

/**
 * Decodes a TIFF file of three bands of 8 bits, with or without an alpha band.
 * @param {Uint8Array} bytes the whole file
 * @returns {Promise<{width: number, height: number, pixels: Uint8Array, mask: Uint8Array | null,
 *     ground: ReturnType<typeof groundOf>}>} RGB row by row; the mask is 1 where there is no data
 */
export async function decodeTiff(bytes) {
  const tags = tiffHeader(bytes);
  check(tags);
  const samples = await samplesOf(bytes, tags);
  const { width, height } = tags;
  const bands = tags.samples[0];
  const count = width * height;
  const pixels = bands === 3 ? samples : new Uint8Array(count * 3);
  if (bands === 4) {
    for (let i = 0; i < count; i++) for (let band = 0; band < 3; band++) pixels[i * 3 + band] = samples[i * 4 + band];
  }
  return { width, height, pixels, mask: maskOf(samples, pixels, bands, tags), ground: groundOf(tags) };
}

function check(tags) {
  const bits = tags.bits ?? [1];
  const bands = tags.samples?.[0] ?? 1;
  const alpha = bands === 4 && ALPHA.has(tags.extra?.[0]);
  if (bits.some((depth) => depth !== 8) || (tags.sampleFormat ?? [1]).some((format) => format !== 1)) {
    throw new Unreadable(`It has ${bits[0]} bits per band; this model was made for images of 8 bits.`);
  }
  if (!(bands === 3 || alpha)) {
    throw new Unreadable(`It has ${bands} ${bands === 1 ? "band" : "bands"}; this model needs three.`);
  }
  if (tags.photometric?.[0] !== RGB) throw new Unreadable("Its colours are not stored as RGB. Save it as PNG.");
  if (![NONE, LZW, DEFLATE, OLD_DEFLATE].includes(tags.compression?.[0] ?? NONE)) {
    throw new Unreadable("It is compressed in a way that this page does not read. Save it with LZW or deflate.");
  }
  if (![1, 2].includes(tags.predictor?.[0] ?? 1)) throw damaged("its prediction is unknown");
}

/** Puts strips or tiles in their places: `(height, width, bands)`. */
async function samplesOf(bytes, tags) {
  const { width, height } = tags;
  const bands = tags.samples[0];
  const tiled = Boolean(tags.tileWidth);
  const blockWidth = tiled ? tags.tileWidth[0] : width;
  const blockHeight = tiled ? tags.tileHeight[0] : Math.min(tags.rowsPerStrip?.[0] ?? height, height);
  const offsets = tiled ? tags.tileOffsets : tags.offsets;
  const counts = tiled ? tags.tileCounts : tags.counts;
  const invalid = tiled && [blockWidth, blockHeight].some((side) => !(side > 0) || side % TILE_STEP !== 0);
  if (invalid || !(blockHeight > 0) || blockWidth * blockHeight > LARGEST_BLOCK) throw damaged("its blocks are invalid");
  const across = Math.ceil(width / blockWidth);
  const down = Math.ceil(height / blockHeight);
  const planes = tags.planar?.[0] === 2 ? bands : 1;
  const inBlock = bands / planes;
  if (!offsets || !counts || offsets.length < across * down * planes) throw damaged("blocks of pixels are missing");
  const samples = new Uint8Array(width * height * bands);
  for (let index = 0; index < across * down * planes; index++) {
    const plane = Math.floor(index / (across * down));
    const top = (Math.floor(index / across) % down) * blockHeight;
    const left = (index % across) * blockWidth;
    const rows = tiled ? blockHeight : Math.min(blockHeight, height - top);
    const stored = bytes.subarray(offsets[index], offsets[index] + counts[index]);
    const block = await unpacked(stored, tags.compression?.[0] ?? NONE, rows * blockWidth * inBlock);
    if (tags.predictor?.[0] === 2) undoPrediction(block, blockWidth * inBlock, inBlock);
    const columns = Math.min(blockWidth, width - left);
    for (let y = 0; y < Math.min(rows, height - top); y++) {
      for (let i = 0; i < columns * inBlock; i++) {
        const to = ((top + y) * width + left) * bands + (planes > 1 ? i * bands + plane : i);
        samples[to] = block[y * blockWidth * inBlock + i];
      }
    }
  }
  return samples;
}

async function unpacked(stored, compression, expected) {
  if (compression === LZW) return unlzw(stored, expected);
  if (compression !== NONE) return inflated([stored], expected);
  if (stored.length < expected) throw damaged("it is cut short");
  return stored.slice(0, expected);
}

function undoPrediction(block, rowLength, step) {
  for (let row = 0; row < block.length; row += rowLength) {
    for (let i = row + step; i < row + rowLength; i++) block[i] += block[i - step];
  }
}

/** LZW as TIFF has it: highest bit first, codes of 9 to 12 bits that grow one code early. */
function unlzw(stored, expected) {
  const CLEAR = 256, END = 257;
  const result = new Uint8Array(expected);
  const starts = new Uint32Array(4096); // a code stands for bytes that were written before: where, and how many
  const lengths = new Uint16Array(4096);
  let length = 0, next = 258, bits = 9, previous = -1, previousStart = 0;
  let buffer = 0, available = 0; // bits that were read and not used
  for (let position = 0; length < expected; ) {
    while (available < bits) {
      if (position >= stored.length) throw damaged("it is cut short");
      buffer = ((buffer << 8) | stored[position++]) & 0xffffff;
      available += 8;
    }
    const code = (buffer >> (available - bits)) & ((1 << bits) - 1);
    available -= bits;
    if (code === END) break;
    if (code === CLEAR) {
      next = 258;
      bits = 9;
      previous = -1;
      continue;
    }
    const start = length;
    if (code < 256) {
      result[length++] = code;
    } else {
      const known = code < next;
      if (previous < 0 || code > next) throw damaged("its pixels cannot be unpacked");
      const from = known ? starts[code] : previousStart;
      const count = known ? lengths[code] : start - previousStart + 1;
      for (let i = 0; i < count && length < expected; i++) result[length++] = result[from + i];
    }
    if (previous >= 0 && next < 4096) {
      starts[next] = previousStart;
      lengths[next++] = start - previousStart + 1;
    }
    if (next >= (1 << bits) - 1 && bits < 12) bits++;
    previous = code;
    previousStart = start;
  }
  if (length < expected) throw damaged("it is cut short");
  return result;
}

/** 1 where alpha is 0 or all bands have the declared value for no data; in one band alone it is a value, as in Python. */
function maskOf(samples, pixels, bands, tags) {
  const count = tags.width * tags.height;
  const nodata = tags.nodata === undefined ? NaN : parseFloat(tags.nodata);
  if (bands === 3 && Number.isNaN(nodata)) return null;
  const mask = new Uint8Array(count);
  let masked = false;
  for (let i = 0; i < count; i++) {
    const at = i * 3;
    const declared = pixels[at] === nodata && pixels[at + 1] === nodata && pixels[at + 2] === nodata;
    if (declared || (bands === 4 && samples[i * 4 + 3] === 0)) masked = mask[i] = 1;
  }
  return masked ? mask : null;
}

function damaged(why) {
  return new Unreadable(`It is a damaged TIFF file: ${why}. Copy or download it again.`);
}
