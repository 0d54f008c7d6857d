// Class ids as a GeoTIFF: one band with the colours of the classes, their names, the value for no data and the place.

const SHORT = 3, LONG = 4, DOUBLE = 12, ASCII = 2;
const BYTES = { [ASCII]: 1, [SHORT]: 2, [LONG]: 4, [DOUBLE]: 8 };
const WRITE = {
  [ASCII]: (view, at, value) => view.setUint8(at, value),
  [SHORT]: (view, at, value) => view.setUint16(at, value, true),
  [LONG]: (view, at, value) => view.setUint32(at, value, true),
  [DOUBLE]: (view, at, value) => view.setFloat64(at, value, true),
};
const DEFLATE = 8, PALETTE = 3;
const RASTER_TYPE = 1025, AREA = 1;
const STRIP_PIXELS = 1 << 18;

/**
 * Encodes class ids.
 * @param {number} width columns
 * @param {number} height rows
 * @param {Uint8Array} labels row by row
 * @param {{classes: string[], palette: number[][], ignore_index: number}} dataset of the model
 * @param {{transform: number[], tags: object}} place see `placeOf` in ground.js
 * @returns {Promise<Blob>} a file of type image/tiff
 */
export async function encodeLabels(width, height, labels, dataset, place) {
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
  const strips = [];
  for (let top = 0; top < height; top += rows) {
    const part = labels.subarray(top * width, Math.min(top + rows, height) * width);
    strips.push(await new Response(new Blob([part]).stream().pipeThrough(new CompressionStream("deflate"))).blob());
  }
  const sizes = strips.map((strip) => strip.size);
  const entries = [
    [256, LONG, [width]], [257, LONG, [height]], [258, SHORT, [8]], [259, SHORT, [DEFLATE]], [262, SHORT, [PALETTE]],
    [273, LONG, sizes], [277, SHORT, [1]], [278, LONG, [rows]], [279, LONG, sizes], [320, SHORT, colourMap(dataset)],
    ...placeTags(place), [42112, ASCII, text(names(dataset))], [42113, ASCII, text(String(dataset.ignore_index))],
  ];
  const directory = 8 + 2 + entries.length * 12 + 4;
  const length = entries.reduce((sum, [, type, values]) => sum + outside(type, values), directory);
  let offset = length;
  entries.find(([tag]) => tag === 273)[2] = sizes.map((size) => (offset += size) - size);
  return new Blob([header(entries, length), ...strips], { type: "image/tiff" });
}

/** Bytes that values take beside the directory; even, as offsets must be. */
function outside(type, values) {
  const bytes = BYTES[type] * values.length;
  return bytes > 4 ? bytes + (bytes % 2) : 0;
}

function header(entries, length) {
  const view = new DataView(new ArrayBuffer(length));
  view.setUint32(0, 0x49492a00);
  view.setUint32(4, 8, true);
  view.setUint16(8, entries.length, true);
  let free = 8 + 2 + entries.length * 12 + 4;
  entries.forEach(([tag, type, values], index) => {
    const entry = 10 + 12 * index;
    view.setUint16(entry, tag, true);
    view.setUint16(entry + 2, type, true);
    view.setUint32(entry + 4, values.length, true);
    const room = outside(type, values);
    if (room) view.setUint32(entry + 8, free, true);
    values.forEach((value, i) => WRITE[type](view, (room ? free : entry + 8) + i * BYTES[type], value));
    free += room;
  });
  return view.buffer;
}

function colourMap({ palette }) {
  const map = new Array(768).fill(0);
  palette.forEach((colour, id) => colour.forEach((value, channel) => (map[channel * 256 + id] = value * 257)));
  return map;
}

function placeTags({ transform: [a, b, c, d, e, f], tags }) {
  const place =
    b === 0 && d === 0 && e < 0
      ? [[33550, DOUBLE, [a, -e, 0]], [33922, DOUBLE, [0, 0, 0, c, f, 0]]]
      : [[34264, DOUBLE, [a, b, 0, c, d, e, 0, f, 0, 0, 0, 0, 0, 0, 0, 1]]];
  const keys = Array.from(tags.geoKeys ?? []);
  for (let i = 4; i + 3 < keys.length; i += 4) if (keys[i] === RASTER_TYPE) keys[i + 3] = AREA; // as placeOf counts
  if (keys.length) place.push([34735, SHORT, keys]);
  if (tags.geoDoubles?.length) place.push([34736, DOUBLE, Array.from(tags.geoDoubles)]);
  if (tags.geoAscii) place.push([34737, ASCII, text(tags.geoAscii.replace(/\0+$/, ""))]);
  return place;
}

/** The names as GDAL stores them with a band, and as rsseg-tf predict writes them. */
function names({ classes }) {
  const items = [["CLASS_NAMES", JSON.stringify(classes)], ...classes.map((name, id) => [`CLASS_${id}`, name])];
  const lines = items.map(([name, value]) => `  <Item name="${name}" sample="0">${escaped(value)}</Item>`);
  return `<GDALMetadata>\n${lines.join("\n")}\n</GDALMetadata>\n`;
}

function escaped(value) {
  return value.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}

function text(value) {
  return [...new TextEncoder().encode(value), 0];
}
