// From a file to pixels, as rsseg_tf reads them: stored values, no colour management, no orientation.

import { Unreadable } from "./errors.js";
import { decodeJpeg, isJpeg, jpegHeader } from "./jpeg.js";
import { decodePng, isPng, pngHeader } from "./png.js";
import { decodeTiff, isTiff, tiffHeader } from "./tiff.js";

const READERS = [
  [isPng, pngHeader, decodePng],
  [isJpeg, jpegHeader, decodeJpeg],
  [isTiff, tiffHeader, decodeTiff],
];

/** Millions of pixels that fit into the memory of a tab: about 12 bytes are needed for each, twice that for JPEG. */
export function limitMegapixels() {
  return (navigator.deviceMemory ?? 8) <= 4 ? 36 : 100;
}

/**
 * Reads an image file; its kind is told by its first bytes.
 * @param {Blob} file PNG, JPEG or TIFF
 * @returns {Promise<{width: number, height: number, pixels: Uint8Array, mask: Uint8Array | null,
 *     ground?: {across: number, down: number, rowArea: (row: number) => number} | null}>} RGB row by row; the mask is 1
 *     where the file declares that there is no data; the size of pixels on the ground, where the file says it
 */
export async function readImage(file) {
  if (file.size === 0) throw new Unreadable("The file is empty. Copy or download it again.");
  const bytes = new Uint8Array(await file.arrayBuffer());
  const reader = READERS.find(([matches]) => matches(bytes));
  if (!reader) {
    throw new Unreadable("This kind of file is not supported. Choose a PNG, a JPEG or a GeoTIFF with 8 bits per band.");
  }
  const [, header, decode] = reader;
  const { width, height } = header(bytes);
  const megapixels = (width * height) / 1e6;
  if (megapixels > limitMegapixels()) {
    throw new Unreadable(
      `The image has ${width} × ${height} pixels, ${Math.round(megapixels)} megapixels; this page takes up to ` +
        `${limitMegapixels()} here. Cut it, or use rsseg-tf predict, which has no such limit.`,
    );
  }
  return decode(bytes);
}
