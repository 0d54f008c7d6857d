// PNG files in and out, value by value. A canvas would multiply by alpha, apply gamma and colour profiles, and is made
// to lie by some privacy settings; here pixels stay what they are in the file.

import { Unreadable } from "./errors.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const GREY = 0, RGB = 2, PALETTE = 3, GREY_ALPHA = 4, RGBA = 6;
const CHANNELS = { [GREY]: 1, [RGB]: 3, [PALETTE]: 1, [GREY_ALPHA]: 2, [RGBA]: 4 };
const DEPTHS = { [GREY]: [1, 2, 4, 8, 16], [RGB]: [8, 16], [PALETTE]: [1, 2, 4, 8], [GREY_ALPHA]: [8, 16], [RGBA]: [8, 16] };
// First column, first row, step across and down of the seven passes of an interlaced image.
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(...parts) {
  let crc = 0xffffffff;
  for (const part of parts) for (const byte of part) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

export function isPng(bytes) {
  return SIGNATURE.every((value, index) => bytes[index] === value);
}

/** Size and kind of a PNG file, from its first bytes. */
export function pngHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 33 || ascii(bytes, 12) !== "IHDR") throw damaged("its header is cut short");
  const [depth, colour, , , interlaced] = bytes.subarray(24, 29);
  const header = { width: view.getUint32(16), height: view.getUint32(20), depth, colour, interlaced };
  if (!DEPTHS[colour]?.includes(depth) || header.width === 0 || header.height === 0) {
    throw damaged("its header is invalid");
  }
  return header;
}

/**
 * Decodes a PNG file of three colours: RGB, RGBA, a palette, or grey with alpha.
 * @param {Uint8Array} bytes the whole file
 * @returns {Promise<{width: number, height: number, pixels: Uint8Array, mask: Uint8Array | null}>} RGB row by row; the
 *     mask is 1 where the alpha is 0, and null where that is nowhere
 */
export async function decodePng(bytes) {
  const header = pngHeader(bytes);
  if (header.depth === 16) throw new Unreadable("It has 16 bits per band; this model was made for images of 8 bits.");
  if (header.colour === GREY) throw new Unreadable("It is a grey image; this model needs three bands of colour.");
  const { palette, data } = chunks(bytes);
  if (header.colour === PALETTE && !palette) throw damaged("it has no palette");
  const raw = await inflated(data, rawLength(header));
  const samples = unfiltered(raw, header);
  return toRgb(samples, header, palette);
}

/** Collects what holds pixels; all other chunks (gamma, profiles, orientation, transparency by colour) are ignored. */
function chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const data = [];
  let palette = null;
  for (let position = 8, kind = ""; kind !== "IEND"; ) {
    if (position + 12 > bytes.length) throw damaged("it is cut short");
    const length = view.getUint32(position);
    kind = ascii(bytes, position + 4);
    const end = position + 8 + length;
    if (end + 4 > bytes.length) throw damaged("it is cut short");
    const content = bytes.subarray(position + 8, end);
    if (crc32(bytes.subarray(position + 4, end)) !== view.getUint32(end)) throw damaged("a checksum fails");
    if (kind === "IDAT") data.push(content);
    if (kind === "PLTE") palette = content;
    position = end + 4;
  }
  return { palette, data };
}

/**
 * Undoes deflate. More bytes than expected are refused while they come, so that no small file fills the memory.
 * @param {BlobPart[]} parts the packed bytes
 * @param {number} expected how many bytes they hold
 * @param {{atMost?: boolean}} options whether fewer will do
 */
export async function inflated(parts, expected, { atMost = false } = {}) {
  const result = new Uint8Array(expected);
  let length = 0;
  try {
    const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      if (length + step.value.length > expected) throw damaged("it holds more pixels than it says");
      result.set(step.value, length);
      length += step.value.length;
    }
  } catch (error) {
    if (error instanceof Unreadable) throw error;
    // Bytes after the end are an error for the browser and none for other readers.
    if (length < expected) throw damaged("its pixels cannot be unpacked");
  }
  if (atMost) return result.subarray(0, length).slice();
  if (length < expected) throw damaged("it holds fewer pixels than it says");
  return result;
}

function passesOf({ width, height, interlaced }) {
  if (!interlaced) return [{ x: 0, y: 0, dx: 1, dy: 1, width, height }];
  return PASSES.map(([x, y, dx, dy]) => ({
    x, y, dx, dy, width: Math.ceil((width - x) / dx), height: Math.ceil((height - y) / dy),
  })).filter((pass) => pass.width > 0 && pass.height > 0);
}

function rowBytes({ depth, colour }, width) {
  return Math.ceil((width * CHANNELS[colour] * depth) / 8);
}

function rawLength(header) {
  return passesOf(header).reduce((sum, pass) => sum + pass.height * (1 + rowBytes(header, pass.width)), 0);
}

/** Undoes the filters of the rows, interlacing and packing: one byte per sample. */
function unfiltered(raw, header) {
  const channels = CHANNELS[header.colour];
  const samples = new Uint8Array(header.width * header.height * channels);
  const step = Math.max(1, (channels * header.depth) >> 3);
  let position = 0;
  for (const pass of passesOf(header)) {
    const length = rowBytes(header, pass.width);
    let above = new Uint8Array(length);
    for (let y = 0; y < pass.height; y++) {
      const row = raw.subarray(position + 1, position + 1 + length);
      unfilter(raw[position], row, above, step);
      place(row, pass, y, header, samples);
      above = row;
      position += 1 + length;
    }
  }
  return samples;
}

function unfilter(filter, row, above, step) {
  if (filter > 4) throw damaged("a row has an unknown filter");
  for (let i = 0; i < row.length; i++) {
    const left = i >= step ? row[i - step] : 0;
    const up = above[i];
    if (filter === 1) row[i] += left;
    else if (filter === 2) row[i] += up;
    else if (filter === 3) row[i] += (left + up) >> 1;
    else if (filter === 4) row[i] += paeth(left, up, i >= step ? above[i - step] : 0);
  }
}

function paeth(left, up, corner) {
  const toLeft = Math.abs(up - corner);
  const toUp = Math.abs(left - corner);
  const toCorner = Math.abs(left + up - 2 * corner);
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

function place(row, pass, y, header, samples) {
  const channels = CHANNELS[header.colour];
  const target = ((pass.y + y * pass.dy) * header.width + pass.x) * channels;
  if (header.depth === 8 && pass.dx === 1) {
    samples.set(row, target);
    return;
  }
  const perByte = 8 / header.depth;
  const highest = (1 << header.depth) - 1;
  for (let x = 0; x < pass.width; x++) {
    for (let channel = 0; channel < channels; channel++) {
      const index = x * channels + channel;
      const shift = 8 - header.depth * ((index % perByte) + 1);
      samples[target + x * pass.dx * channels + channel] = (row[Math.floor(index / perByte)] >> shift) & highest;
    }
  }
}

function toRgb(samples, { width, height, colour }, palette) {
  const count = width * height;
  if (colour === RGB) return { width, height, pixels: samples, mask: null };
  const pixels = new Uint8Array(count * 3);
  const channels = CHANNELS[colour];
  let mask = colour === PALETTE ? null : new Uint8Array(count);
  let masked = false;
  for (let i = 0; i < count; i++) {
    const from = i * channels;
    for (let band = 0; band < 3; band++) {
      if (colour === PALETTE) pixels[i * 3 + band] = palette[samples[i] * 3 + band] ?? 0;
      else pixels[i * 3 + band] = samples[from + (colour === RGBA ? band : 0)];
    }
    if (mask && samples[from + channels - 1] === 0) masked = mask[i] = 1;
  }
  if (!masked) mask = null;
  return { width, height, pixels, mask };
}

/**
 * Encodes an image; the file holds the values and nothing else.
 * @param {number} width columns
 * @param {number} height rows
 * @param {1 | 3} bands grey or RGB
 * @param {(y: number) => Uint8Array} row gives the values of a row
 * @returns {Promise<Blob>} a file of type image/png
 */
export async function encodePng(width, height, bands, row) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, bands === 1 ? GREY : RGB, 0, 0, 0], 8);
  let y = 0;
  const rows = new ReadableStream({
    pull(controller) {
      if (y === height) {
        controller.close();
        return;
      }
      const line = new Uint8Array(1 + width * bands); // begins with its filter type, 0 = none
      line.set(row(y++), 1);
      controller.enqueue(line);
    },
  });
  const reader = rows.pipeThrough(new CompressionStream("deflate")).getReader();
  const parts = [Uint8Array.from(SIGNATURE), ...chunk("IHDR", header)];
  for (let step = await reader.read(); !step.done; step = await reader.read()) parts.push(...chunk("IDAT", step.value));
  parts.push(...chunk("IEND", new Uint8Array(0)));
  return new Blob(parts, { type: "image/png" });
}

function chunk(kind, content) {
  const head = new Uint8Array(8);
  new DataView(head.buffer).setUint32(0, content.length);
  for (let i = 0; i < 4; i++) head[4 + i] = kind.charCodeAt(i);
  const tail = new Uint8Array(4);
  new DataView(tail.buffer).setUint32(0, crc32(head.subarray(4), content));
  return [head, content, tail];
}

function ascii(bytes, start) {
  return String.fromCharCode(...bytes.subarray(start, start + 4));
}

function damaged(why) {
  return new Unreadable(`It is a damaged PNG file: ${why}. Copy or download it again.`);
}
