// TIFF and GeoTIFF files, read by geotiff.js (vendor/): which part of a file becomes the image, and its pixels.

import { Unreadable } from "./errors.js";
import { placeOf, within } from "./ground.js";
import { decodeJpegBlock } from "./jpeg.js";
import { unlzw } from "./lzw.js";
import { inflated } from "./png.js";

const COMPRESSIONS = {
  none: 1, lzw: 5, jpeg: 7, deflate: 8, oldDeflate: 32946, packBits: 32773, lerc: 34887, zstd: 50000,
};
const READ = new Set(Object.values(COMPRESSIONS));
const YCBCR = 6;
const BANDS = new Set([1, 2]); // how colours are stored: as brightness of each band, or as red, green and blue
const ALPHA = new Set([1, 2]); // premultiplied or not
const REDUCED = 1, MASK = 4; // bits of the kind of a directory
const LARGEST_BLOCK = 1e8; // pixels
const TILE_STEP = 16; // sides of tiles are multiples of it, by the specification
const AT_ONCE = 8e6; // pixels
const MOST_DIRECTORIES = 64;

let library = null;

export function isTiff(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 4));
  return ["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(head);
}

/** Loads geotiff.js when the first TIFF file is opened. */
async function loaded() {
  if (library) return library;
  try {
    await import("./vendor/geotiff.js"); // defines GeoTIFF
  } catch {
    throw new Unreadable("vendor/geotiff.js is missing on the server. Copy the folder again, or export it again.");
  }
  library = globalThis.GeoTIFF;
  const sizes = async (directory) => {
    const value = (name) => directory.loadValue(name);
    const tiled = directory.hasTag("TileWidth");
    return {
      tileWidth: await value(tiled ? "TileWidth" : "ImageWidth"),
      tileHeight: tiled
        ? await value("TileLength")
        : Math.min((await value("RowsPerStrip")) ?? Infinity, await value("ImageLength")),
      planarConfiguration: await value("PlanarConfiguration"),
      bitsPerSample: await value("BitsPerSample"),
      predictor: (await value("Predictor")) || 1,
      photometric: await value("PhotometricInterpretation"),
      tables: await value("JPEGTables"),
    };
  };
  const { BaseDecoder } = library;
  const inflate = (stored, most) => inflated([stored], most, { atMost: true });
  library.addDecoder([COMPRESSIONS.deflate, COMPRESSIONS.oldDeflate], async () => bounded(BaseDecoder, inflate), sizes);
  library.addDecoder(COMPRESSIONS.lzw, async () => bounded(BaseDecoder, unlzw), sizes);
  library.addDecoder(COMPRESSIONS.jpeg, async () => browserJpeg(BaseDecoder), sizes);
  return library;
}

/** The decoders of this page stop where a block holds more than it may. */
function bounded(BaseDecoder, unpacked) {
  return class extends BaseDecoder {
    async decodeBlock(stored) {
      const { tileWidth, tileHeight, planarConfiguration, bitsPerSample } = this.parameters;
      const bits = planarConfiguration === 2 ? bitsPerSample[0] : bitsPerSample.reduce((sum, one) => sum + one);
      return (await unpacked(new Uint8Array(stored), Math.ceil((tileWidth * bits) / 8) * tileHeight)).buffer;
    }
  };
}

/** JPEG by the browser, whose decoder gives the pixels that GDAL's gives. */
function browserJpeg(BaseDecoder) {
  return class extends BaseDecoder {
    async decodeBlock(stored) {
      const { photometric, tables } = this.parameters;
      const ycc = photometric === YCBCR;
      return (await decodeJpegBlock(new Uint8Array(stored), tables ? Uint8Array.from(tables) : null, ycc)).buffer;
    }
  };
}

/**
 * Opens a TIFF file.
 * @param {Blob | string} source a file, or an address whose server answers requests for ranges
 * @returns {Promise<Tiff>}
 */
export async function openTiff(source) {
  const { fromBlob, fromCustomClient } = await loaded();
  return plain(async () => {
    if (typeof source === "string") {
      // In blocks, as the parts of a header lie beside each other.
      return Tiff.of(await fromCustomClient(client(source), { blockSize: 65536, cacheSize: 400 }), null);
    }
    return Tiff.of(await fromBlob(source), source.size);
  });
}

/** Asks a server for ranges; says in words what came instead. */
function client(address) {
  const { BaseClient, BaseResponse } = library;
  class Answer extends BaseResponse {
    constructor(response) {
      super();
      this.response = response;
    }
    get status() {
      return this.response.status;
    }
    getHeader(name) {
      return this.response.headers.get(name) ?? undefined;
    }
    async getData() {
      return this.response.arrayBuffer();
    }
  }
  class Ranges extends BaseClient {
    async request({ headers, signal } = {}) {
      try {
        const response = await fetch(this.url, { headers, signal, credentials: "omit" }).catch(() => {
          throw new Unreadable(
            "The address cannot be read: the server does not answer, or it does not let other pages read its files " +
              "(CORS), or this page was not exported for it (--web_urls). Download the file and open it.",
          );
        });
        if (!response.ok) throw new Unreadable(`The server answers ${response.status} for this address. Check it.`);
        if (response.status !== 206) {
          throw new Unreadable("The server sends whole files alone, no ranges. Download the file and open it.");
        }
        return new Answer(response);
      } catch (error) {
        failure = error;
        throw error;
      }
    }
  }
  return new Ranges(address);
}

let failure = null; // the last one of a server: geotiff.js puts an error of its own in its place

/** Runs what reads; what goes wrong in geotiff.js is a damaged file, unless memory ran out. */
async function plain(read) {
  failure = null;
  try {
    return await read();
  } catch (error) {
    if (error instanceof Unreadable) throw error;
    if (failure instanceof Unreadable) throw failure;
    if (error instanceof RangeError && /allocation|memory/i.test(error.message)) throw error;
    throw damaged(error instanceof RangeError ? "it is cut short" : "its pixels cannot be unpacked");
  }
}

/** A TIFF file: the image, smaller versions of it (overviews), and masks. */
export class Tiff {
  static async of(file, size) {
    const tiff = new Tiff();
    // geotiff.js 3.0.5 takes the numbers of long lists for little-endian; lists that are read at once are not affected.
    if (!file.littleEndian) file.parser.eager = true;
    const images = await directories(file);
    tiff.size = size;
    tiff.main = images[0];
    check(tiff.main);
    tiff.width = tiff.main.getWidth();
    tiff.height = tiff.main.getHeight();
    const kind = (image) => image.fileDirectory.getValue("NewSubfileType") ?? 0;
    tiff.levels = [tiff.main, ...images.slice(1).filter((image) => kind(image) & REDUCED && !(kind(image) & MASK))];
    tiff.levels = tiff.levels.filter((image) => image === tiff.main || alike(image, tiff.main));
    tiff.masks = images.filter((image) => kind(image) & MASK);
    tiff.bits = tiff.main.getBitsPerSample();
    tiff.signed = tiff.main.getSampleFormat() === 2;
    const value = (name) => tiff.main.fileDirectory.getValue(name);
    tiff.nodata = value("GDAL_NODATA") === undefined ? NaN : parseFloat(value("GDAL_NODATA"));
    tiff.place = placeOf({
      pixelScale: value("ModelPixelScale"), tiePoints: value("ModelTiepoint"),
      transformation: value("ModelTransformation"), geoKeys: value("GeoKeyDirectory"),
      geoDoubles: value("GeoDoubleParams"), geoAscii: value("GeoAsciiParams"),
    });
    return tiff;
  }

  /**
   * Reads the whole image, at full size or, where that is more than `most` pixels, from an overview or with pixels left
   * out.
   */
  async whole(most) {
    const fits = this.levels.find((image) => image.getWidth() * image.getHeight() <= most);
    const level = fits ?? this.levels[this.levels.length - 1];
    const [width, height] = [level.getWidth(), level.getHeight()];
    const step = fits ? 1 : Math.ceil(Math.sqrt((width * height) / most));
    if (step > 1 && this.size === null) {
      throw new Unreadable(
        `The image has ${this.width} × ${this.height} pixels and no smaller version (overview) that this page could ` +
          "show. Make it a Cloud Optimized GeoTIFF: gdal_translate -of COG.",
      );
    }
    return plain(() => this.#read(level, { left: 0, top: 0, width, height }, step));
  }

  /** Reads a part at full size; one with more than `most` pixels is made smaller around its middle. */
  async part({ left, top, width, height }, most) {
    const shrink = Math.min(1, Math.sqrt(most / (width * height)));
    const across = Math.max(1, Math.floor(Math.min(width, this.width) * shrink));
    const down = Math.max(1, Math.floor(Math.min(height, this.height) * shrink));
    const inside = (first, size, kept, all) => Math.max(0, Math.min(all - kept, Math.round(first + (size - kept) / 2)));
    const window = {
      left: inside(left, width, across, this.width), top: inside(top, height, down, this.height),
      width: across, height: down,
    };
    return plain(() => this.#read(this.main, window, 1));
  }

  async #read(level, window, step) {
    await checkBlocks(level, this.size); // first, as it takes no memory
    const bands = level.getSamplesPerPixel();
    const width = Math.ceil(window.width / step), height = Math.ceil(window.height / step);
    const pixels = this.bits === 8 ? new Uint8Array(width * height * 3) : new Uint16Array(width * height * 3);
    const mask = new Uint8Array(width * height);
    let masked = false;
    await eachRow(level, window, step, (samples, to) => {
      for (let x = 0; x < width; x++) {
        const from = x * step * bands, at = to * width + x;
        for (let band = 0; band < 3; band++) pixels[at * 3 + band] = samples[from + band];
        if (bands === 4 && samples[from + 3] === 0) masked = mask[at] = 1;
      }
    });
    const sameSize = (image) => image.getWidth() === level.getWidth() && image.getHeight() === level.getHeight();
    const own = this.masks.find(sameSize);
    if (own) {
      await checkBlocks(own, this.size);
      await eachRow(own, window, step, (samples, to) => {
        for (let x = 0; x < width; x++) if (samples[x * step] === 0) masked = mask[to * width + x] = 1;
      });
    }
    const across = (this.width / level.getWidth()) * step, down = (this.height / level.getHeight()) * step;
    const part = { left: window.left, top: window.top, across, down };
    return {
      width, height, pixels, bits: this.bits, signed: this.signed, nodata: this.nodata, mask: masked ? mask : null,
      place: this.place && within(this.place, part), part: { ...part, width: this.width, height: this.height },
    };
  }
}

async function directories(file) {
  const images = [];
  const seen = new Set();
  for (let index = 0; index < MOST_DIRECTORIES; index++) {
    const image = await file.getImage(index);
    images.push(image);
    const next = image.fileDirectory.nextIFDByteOffset;
    if (!next || seen.has(next)) break;
    seen.add(next);
  }
  return images;
}

function check(image) {
  const value = (name) => image.fileDirectory.getValue(name);
  const whole = (number) => Number.isInteger(number) && number > 0;
  const bands = value("SamplesPerPixel") ?? 1;
  const bits = value("BitsPerSample") ?? [1];
  const formats = value("SampleFormat") ?? [1];
  if (!whole(image.getWidth()) || !whole(image.getHeight()) || !whole(bands)) throw damaged("its header is invalid");
  if (bits.length > bands || formats.length > bands) throw damaged("its header is invalid");
  const alpha = bands === 4 && ALPHA.has(value("ExtraSamples")?.at(-1));
  if (!(bands === 3 || alpha)) {
    throw new Unreadable(`It has ${bands} ${bands === 1 ? "band" : "bands"}; this model needs three.`);
  }
  const kept = bits.every((depth) => depth === bits[0]) && formats.every((format) => format === formats[0]);
  if (!kept || !((bits[0] === 8 && formats[0] === 1) || (bits[0] === 16 && [1, 2].includes(formats[0])))) {
    const kind = formats[0] === 3 ? "fractions" : "numbers";
    throw new Unreadable(`It has ${kind} of ${bits[0]} bits; this page reads whole numbers of 8 or 16 bits.`);
  }
  const compression = value("Compression") ?? COMPRESSIONS.none;
  const jpeg = compression === COMPRESSIONS.jpeg;
  const photometric = value("PhotometricInterpretation");
  if (!(BANDS.has(photometric) || (jpeg && photometric === YCBCR && bands === 3))) {
    throw new Unreadable("Its colours are not stored as RGB. Save it as PNG.");
  }
  if (!READ.has(compression) || (jpeg && (bands === 4 || bits[0] !== 8))) {
    throw new Unreadable("It is compressed in a way that this page does not read. Save it with LZW or deflate.");
  }
}

/** Whether an overview stores pixels as the image does. */
function alike(image, main) {
  try {
    check(image);
  } catch {
    return false;
  }
  return (
    image.getSamplesPerPixel() === main.getSamplesPerPixel() && image.getBitsPerSample() === main.getBitsPerSample() &&
    image.getWidth() < main.getWidth()
  );
}

/** Refuses blocks that are no blocks, before memory is taken for them. */
async function checkBlocks(image, size) {
  const { fileDirectory: directory } = image;
  const tiled = directory.hasTag("TileWidth");
  const rows = directory.getValue("RowsPerStrip");
  const width = image.getTileWidth();
  const height = tiled ? image.getTileHeight() : Math.min(rows ?? Infinity, image.getHeight());
  const invalid = tiled && [width, height].some((side) => !(side > 0) || side % TILE_STEP !== 0);
  if (invalid || !(height > 0) || width * height > LARGEST_BLOCK) throw damaged("its blocks are invalid");
  const predictor = (await directory.loadValue("Predictor")) ?? 1;
  if (![1, 2].includes(predictor)) throw damaged("its prediction is unknown");
  if (predictor === 2 && !image.littleEndian && image.getBitsPerSample() === 16) {
    throw new Unreadable("It is stored big-endian with prediction, which this page does not read. Save it again.");
  }
  const planes = (directory.getValue("PlanarConfiguration") ?? 1) === 2 ? image.getSamplesPerPixel() : 1;
  const count = Math.ceil(image.getWidth() / width) * Math.ceil(image.getHeight() / height) * planes;
  const list = async (name) => {
    const value = await directory.loadValue(name);
    return typeof value === "number" ? [value] : (value ?? []);
  };
  const offsets = await list(tiled ? "TileOffsets" : "StripOffsets");
  const counts = await list(tiled ? "TileByteCounts" : "StripByteCounts");
  if (offsets.length < count || counts.length < count) throw damaged("blocks of pixels are missing");
  if (size === null) return;
  for (let i = 0; i < count; i++) {
    if (Number(offsets[i]) + Number(counts[i]) > size) throw damaged("it is cut short");
  }
}

/** Gives the samples of each `step`-th row of a window, and its number; reads a few rows of blocks at once. */
async function eachRow(image, { left, top, width, height }, step, take) {
  const bands = image.getSamplesPerPixel();
  const block = image.getTileHeight();
  const rows = Math.max(1, Math.floor(AT_ONCE / (width * block))) * block;
  for (let first = Math.floor(top / block) * block; first < top + height; first += rows) {
    const from = Math.max(first, top), end = Math.min(first + rows, top + height);
    const samples = await image.readRasters({ window: [left, from, left + width, end], interleave: true });
    for (let y = from; y < end; y++) {
      if ((y - top) % step) continue;
      take(samples.subarray((y - from) * width * bands, (y - from + 1) * width * bands), (y - top) / step);
    }
  }
}

function damaged(why) {
  return new Unreadable(`It is a damaged TIFF file: ${why}. Copy or download it again.`);
}
