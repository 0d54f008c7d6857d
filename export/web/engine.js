// What the worker does: messages in, messages out. One image at a time.

import { degreesOf } from "./degrees.js";
import { Unreadable } from "./errors.js";
import { groundOf } from "./ground.js";
import { limitMegapixels, openImage } from "./images.js";
import { encodeLabels } from "./labels.js";
import { loadModel } from "./model.js";
import { encodePng } from "./png.js";
import { encodeGeoJson, regions } from "./polygons.js";
import { Blender, cut, plan } from "./tiling.js";
import { fits, largestOf, shownTables, tablesOf } from "./values.js";

// Larger images are shown at a fraction of their size, as browsers bound canvases; labels keep theirs.
const SHOWN_PIXELS = 24e6, SHOWN_SIDE = 16384;

let model = null;
let source = null; // what reads the image
let image = null;
let ground = null; // the size of its pixels; null where unknown
let shown = null; // of each band, the byte that shows a stored value
let labels = null;
let cancelled = false;

/** Does what a message asks; throws Unreadable with what to tell the person. */
export async function handle(message) {
  if (message.type === "load") await load(message);
  else if (message.type === "open") await open(message);
  else if (message.type === "part") await take(() => source.part(message.window));
  else if (message.type === "whole") await take(() => source.whole());
  else if (message.type === "segment") await segment(message);
  else if (message.type === "cancel") cancelled = true;
  else if (message.type === "save") await save(message);
}

async function load({ base }) {
  model = await loadModel(new URL(base));
  const { manifest, page, threads, checked } = model;
  post({ type: "ready", manifest, page, threads, checked, limit: limitMegapixels() });
}

async function open({ file, address }) {
  source = image = labels = null; // first, because two large images may not fit
  source = await openImage(file ?? address, limitMegapixels());
  await take(() => source.whole());
}

/** Makes what is read the image. */
async function take(read) {
  image = labels = null;
  image = await read();
  ground = groundOf(image.place, image.width, image.height);
  shown = shownTables(image);
  const step = shownStep();
  const picture = shownPixels(step);
  const { width, height, bits, place, part } = image;
  const { max_value: maxValue } = model.manifest.dataset;
  post(
    {
      type: "opened", width, height, step, part, ...picture,
      ground: ground ? { across: ground.across, down: ground.down } : null,
      parts: source.part !== null,
      misfit: fits(image, maxValue) ? null : { bits, largest: largestOf(image), maxValue },
      saves: { geotiff: Boolean(place?.exact), geojson: Boolean(place?.exact && degreesOf(place.keys)) },
    },
    [picture.rgba.buffer],
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
        const band = bands[channel % bands.length];
        rgba[to + channel] = shown[band][image.pixels[from + band]];
      }
      rgba[to + 3] = 255;
    }
  }
  return { shownWidth: width, shownHeight: height, rgba };
}

async function segment({ full }) {
  cancelled = false;
  labels = null;
  const { tile } = model;
  const { dataset } = model.manifest;
  const { inputs, absent } = tablesOf(image, dataset, full ?? null, model.input instanceof Uint8Array);
  const stored = inputs ? new image.pixels.constructor(model.input.length) : model.input;
  const windows = plan(image.height, image.width, tile, model.stride);
  const blender = new Blender(image.height, image.width, windows, dataset.classes.length);
  const total = windows.rows.length * windows.columns.length;
  const began = performance.now();
  let done = 0;
  post({ type: "progress", done, total, seconds: 0 });
  for (const [index, top] of windows.rows.entries()) {
    for (const left of windows.columns) {
      cut(image, top, left, windows, tile, stored);
      if (inputs) translate(stored, inputs, model.input);
      blender.add(await model.run(), tile[1], left);
      post({ type: "progress", done: ++done, total, seconds: (performance.now() - began) / 1000 });
      await breath();
      if (cancelled) {
        post({ type: "cancelled" });
        return;
      }
    }
    const span = blender.finishRow(index);
    maskRows(blender.labels, span, absent);
    postRows(blender.labels, span);
  }
  labels = blender.labels;
  post({ type: "segmented", ...measured(), tiles: total, seconds: (performance.now() - began) / 1000 });
}

/** Gives the model's values of the stored ones, band by band. */
function translate(stored, inputs, input) {
  const bytes = input instanceof Uint8Array;
  for (let i = 0; i < stored.length; i++) {
    const value = inputs[i % 3][stored[i]];
    if (bytes && !(value >= 0 && value <= 255)) {
      throw new Unreadable("The image has values above the one that you named for full brightness. Name a larger one.");
    }
    input[i] = value;
  }
}

/** Pixels of each id, and their square metres on the ground: pixels of one row are equal, those of two need not be. */
function measured() {
  const { width, height } = image;
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

/** Gives pixels without data the ignored id: where the mask is 0, and where all bands stand for no data. */
function maskRows(all, [top, end], absent) {
  const { mask, pixels } = image;
  const declared = absent.every((table) => table.includes(1));
  if (!mask && !declared) return;
  for (let i = top * image.width; i < end * image.width; i++) {
    const none = declared && absent[0][pixels[i * 3]] && absent[1][pixels[i * 3 + 1]] && absent[2][pixels[i * 3 + 2]];
    if (none || mask?.[i]) all[i] = model.manifest.dataset.ignore_index;
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

/** Makes a file: class ids with or without their place, polygons, or the picture with the visible classes over it. */
async function save({ what, opacity, visible, name }) {
  if (!image || !labels) throw new Unreadable("There is no result to save yet.");
  const { width, height, place } = image;
  const { dataset } = model.manifest;
  const makers = {
    labels: () => encodePng(width, height, 1, (y) => labels.subarray(y * width, (y + 1) * width)),
    overlay: () => encodePng(width, height, 3, overlayRow(opacity, visible)),
    geotiff: () => encodeLabels(width, height, labels, dataset, place),
    geojson: () => {
      const wanted = (id) => id < dataset.classes.length && visible[id];
      const found = regions(width, height, labels, wanted, ground ? ground.rowArea : () => 1);
      return encodeGeoJson(found, dataset.classes, place.transform, degreesOf(place.keys), ground ? "m2" : "px");
    },
  };
  post({ type: "saved", blob: await makers[what](), name });
}

function overlayRow(opacity, visible) {
  const { palette, rgb_bands: bands } = model.manifest.dataset;
  const line = new Uint8Array(image.width * 3);
  return (y) => {
    for (let x = 0; x < image.width; x++) {
      const id = labels[y * image.width + x];
      const weight = visible[id] ? opacity : 0;
      for (let channel = 0; channel < 3; channel++) {
        const band = bands[channel % bands.length];
        const value = shown[band][image.pixels[(y * image.width + x) * 3 + band]];
        line[x * 3 + channel] = Math.round(value * (1 - weight) + (palette[id]?.[channel] ?? 0) * weight);
      }
    }
    return line;
  };
}

function post(message, transfer = []) {
  self.postMessage(message, transfer);
}
