// From a file to pixels, as rsseg_tf reads them: stored values, no colour management, no orientation.

import { Unreadable } from "./errors.js";
import { isTiff, openTiff } from "./geotiff.js";
import { decodeJpeg, isJpeg, jpegHeader } from "./jpeg.js";
import { decodePng, isPng, pngHeader } from "./png.js";

const READERS = [
  [isPng, pngHeader, decodePng],
  [isJpeg, jpegHeader, decodeJpeg],
];
const HEAD = 16; // bytes that tell the kind of a file

/** Millions of pixels that fit into the memory of a tab: about 12 bytes are needed for each, twice that for JPEG. */
export function limitMegapixels() {
  return (navigator.deviceMemory ?? 8) <= 4 ? 36 : 100;
}

/**
 * Opens an image; the kind of a file is told by its first bytes.
 * @param {Blob | string} source a PNG, JPEG or TIFF file, or the address of a TIFF file
 * @param {number} limit megapixels that are read at once
 * @returns {Promise<{whole: () => Promise<Image>, part: ((window: {left: number, top: number, width: number,
 *     height: number}) => Promise<Image>) | null}>} what reads the image: all of it, made smaller where it is larger
 *     than the limit, or a part at full size. An image is {width, height, pixels, bits, signed, nodata, mask, place,
 *     part}: three bands row by row; 8 or 16 bits, 16 with a sign or not; the declared value for no data or NaN; 1
 *     where a mask or an alpha band is 0, or null; its place (see ground.js) or null; which part of the whole it is
 */
export async function openImage(source, limit) {
  if (typeof source === "string" || isTiff(new Uint8Array(await source.slice(0, HEAD).arrayBuffer()))) {
    const tiff = await openTiff(source);
    return { whole: () => tiff.whole(limit * 1e6), part: (window) => tiff.part(window, limit * 1e6) };
  }
  return { whole: () => decodedWhole(source, limit), part: null };
}

async function decodedWhole(file, limit) {
  if (file.size === 0) throw new Unreadable("The file is empty. Copy or download it again.");
  const bytes = new Uint8Array(await file.arrayBuffer());
  const reader = READERS.find(([matches]) => matches(bytes));
  if (!reader) throw new Unreadable("This kind of file is not supported. Choose a PNG, a JPEG or a GeoTIFF.");
  const [, header, decode] = reader;
  const { width, height } = header(bytes);
  const megapixels = (width * height) / 1e6;
  if (megapixels > limit) {
    throw new Unreadable(
      `The image has ${width} × ${height} pixels, ${Math.round(megapixels)} megapixels; of a PNG or JPEG this page ` +
        `takes up to ${limit} here. Save it as GeoTIFF, of which it reads parts, or use rsseg-tf predict.`,
    );
  }
  const part = { left: 0, top: 0, across: 1, down: 1, width, height };
  return { ...(await decode(bytes)), bits: 8, signed: false, nodata: NaN, place: null, part };
}
