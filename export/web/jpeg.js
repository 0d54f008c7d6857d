// JPEG files: the browser's decoder does the work, on a copy without the segments that would make it change pixels.

import { Unreadable } from "./errors.js";

const START_OF_SCAN = 0xda;
const NO_FRAME = new Set([0xc4, 0xc8, 0xcc]); // of the markers C0..CF: tables
const JFIF = 0xe0, ADOBE = 0xee; // the segments of applications that say how colours are stored
const STRIP_PIXELS = 1 << 22; // read back at once

export function isJpeg(bytes) {
  return bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;
}

/** Yields marker, first byte of the segment, first byte of its content, and its end, up to the start of scan. */
function* segments(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let position = 2;
  for (;;) {
    while (bytes[position] === 0xff && bytes[position + 1] === 0xff) position++; // fill bytes
    if (position + 4 > bytes.length) throw damaged("it is cut short");
    if (bytes[position] !== 0xff) throw damaged("its header is invalid");
    const marker = bytes[position + 1];
    const end = position + 2 + view.getUint16(position + 2);
    yield [marker, position, position + 4, end];
    if (marker === START_OF_SCAN) return;
    position = end;
  }
}

/** Size and number of bands of a JPEG file. */
export function jpegHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const [marker, , content, end] of segments(bytes)) {
    if (marker >= 0xc0 && marker <= 0xcf && !NO_FRAME.has(marker) && end <= bytes.length) {
      const height = view.getUint16(content + 1);
      const width = view.getUint16(content + 3);
      if (height === 0 || width === 0) throw damaged("its header is invalid");
      return { height, width, bands: bytes[content + 5] };
    }
  }
  throw damaged("it has no frame");
}

/**
 * Decodes a JPEG file of three bands. Orientation (EXIF) and colour profiles are left out, as training left them out.
 * @param {Uint8Array} bytes the whole file
 * @returns {Promise<{width: number, height: number, pixels: Uint8Array, mask: null}>} RGB row by row
 */
export async function decodeJpeg(bytes) {
  const { bands } = jpegHeader(bytes);
  if (bands !== 3) {
    throw new Unreadable(`It has ${bands} ${bands === 1 ? "band (grey)" : "bands (CMYK)"}; this model needs three.`);
  }
  return { ...(await decoded(bytes, 3)), mask: null };
}

/**
 * Decodes a block of a TIFF file.
 * @param {Uint8Array} bytes the block
 * @param {Uint8Array | null} tables a JPEG file of tables that all blocks share
 * @param {boolean} ycc whether three bands are brightness and colour differences, not RGB
 * @returns {Promise<Uint8Array>} one band, or RGB
 */
export async function decodeJpegBlock(bytes, tables, ycc) {
  const shared = tables ? tables.subarray(2, tables.length - 2) : new Uint8Array(0); // without start and end
  // The block does not say how its colours are stored; the segment of Adobe does: 1 for differences, 0 for RGB.
  const adobe = [0xff, ADOBE, 0, 14, 0x41, 0x64, 0x6f, 0x62, 0x65, 0, 100, 0, 0, 0, 0, ycc ? 1 : 0];
  const parts = [bytes.subarray(0, 2), Uint8Array.from(adobe), shared, bytes.subarray(2)];
  const whole = new Uint8Array(await new Blob(parts).arrayBuffer());
  const { bands } = jpegHeader(whole);
  if (bands !== 1 && bands !== 3) throw damaged("its header is invalid");
  return (await decoded(whole, bands)).pixels;
}

async function decoded(bytes, bands) {
  if (!hasEnd(bytes)) throw damaged("it is cut short");
  if (!canvasIsExact()) {
    throw new Unreadable(
      "This browser alters the pixels that pages read from images (protection against fingerprinting). Allow it for " +
        "this page, or use a PNG file.",
    );
  }
  const plain = new Blob(plainParts(bytes), { type: "image/jpeg" });
  let bitmap;
  try {
    bitmap = await createImageBitmap(plain, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw damaged("its pixels cannot be decoded");
  }
  const image = { width: bitmap.width, height: bitmap.height, pixels: readBack(bitmap, bands) };
  bitmap.close();
  return image;
}

function plainParts(bytes) {
  const parts = [bytes.subarray(0, 2)];
  for (const [marker, start, , end] of segments(bytes)) {
    if (marker === START_OF_SCAN) {
      parts.push(bytes.subarray(start));
    } else if (marker < 0xe0 || marker > 0xef || marker === JFIF || marker === ADOBE) {
      parts.push(bytes.subarray(start, end));
    }
  }
  return parts;
}

function hasEnd(bytes) {
  let scan = 0;
  for (const [, start] of segments(bytes)) scan = start;
  for (let i = bytes.length - 2; i >= scan; i--) if (bytes[i] === 0xff && bytes[i + 1] === 0xd9) return true;
  return false;
}

/** Reads the pixels of an opaque picture by strips, because a canvas may be smaller than an image. */
function readBack(bitmap, bands) {
  const { width, height } = bitmap;
  const pixels = new Uint8Array(width * height * bands);
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
  const context = context2d(width, rows);
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    const { data } = context.getImageData(0, 0, width, count);
    for (let i = 0, to = top * width * bands; i < data.length; i += 4) {
      for (let band = 0; band < bands; band++) pixels[to++] = data[i + band];
    }
  }
  return pixels;
}

let exact = null; // whether a canvas gives back what was put into it

function canvasIsExact() {
  return (exact ??= triedCanvas());
}

function triedCanvas() {
  const sent = new ImageData(16, 16);
  for (let i = 0; i < sent.data.length; i++) sent.data[i] = i % 4 === 3 ? 255 : (i * 37 + (i >> 5)) & 0xff;
  const context = context2d(16, 16);
  context.putImageData(sent, 0, 0);
  const { data } = context.getImageData(0, 0, 16, 16);
  return data.every((value, index) => value === sent.data[index]);
}

function context2d(width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  return context;
}

function damaged(why) {
  return new Unreadable(`It is a damaged JPEG file: ${why}. Copy or download it again.`);
}
