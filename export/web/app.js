// The page: buttons and texts. All work is done by the worker.

import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const sizes = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const shares = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const base = new URL(".", document.baseURI);

const state = {
  manifest: null,
  page: null,
  file: null, // {name, width, height, step, ground: {across, down} in metres, or null where unknown, part, misfit}
  visible: [], // of each class
  counts: null,
  areas: null, // square metres of each class; null where unknown
  running: false,
  keyboard: false, // what was used last
};

const viewer = new Viewer($("view"), showProbe, (share) => {
  $("split").value = Math.round(share * 100);
  setSplit();
});

if (document.body.dataset.state !== "broken") start();

function start() {
  const worker = startWorker();
  const send = (message) => worker.postMessage({ base: base.href, ...message });
  worker.onmessage = ({ data }) => receive(data);
  worker.onerror = () => fail("load", "Files of this page are missing. Copy the folder again, or export it again.");
  listen(send);
  send({ type: "load" });
}

/** A worker that comes from a blob inherits this page's Content-Security-Policy; one from an address has none. */
function startWorker() {
  const source = `importScripts(${JSON.stringify(new URL("worker.js", base).href)});`;
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  return new Worker(address, { name: "segmentation" });
}

// --- what the worker says ---

function receive(message) {
  const actions = {
    ready, opened, progress, rows, segmented, saved,
    cancelled: () => finish("Cancelled. The classes found so far were taken away."),
    failed: ({ job, message: text }) => fail(job, text),
  };
  actions[message.type](message);
}

function ready({ manifest, page, threads, checked, limit }) {
  state.manifest = manifest;
  state.page = page;
  const { dataset } = manifest;
  state.visible = dataset.classes.map(() => true);
  $("title").textContent = page.title;
  $("subtitle").textContent = `${dataset.classes.length} classes · images stay on this device`;
  document.title = page.title;
  invite();
  $("engine-text").textContent = "Ready";
  $("engine-threads").textContent = threads > 1 ? `· ${threads} threads` : "";
  $("engine").title = threads > 1 ? "" : "One thread; a server that isolates pages, such as serve.py, allows more.";
  $("accepted").textContent = `PNG, JPEG or GeoTIFF · ${bandText(dataset)} · up to ${limit} megapixels at once`;
  $("address-form").hidden = !page.urls;
  $("address").disabled = $("open-address").disabled = false;
  const checkText = checked ? "" : " The model file was not checked: this connection is not https.";
  const { step, exported } = manifest.origin;
  $("origin").textContent = `Model: ${manifest.model}, step ${step}, exported ${exported.slice(0, 10)}.${checkText}`;
  fillKeys(dataset);
  $("choose-empty").disabled = $("sample").disabled = false;
  $("sample").hidden = !page.sample;
  setState("ready");
}

/** Says what to do first; on a phone nothing can be dropped. */
function invite() {
  const coarse = matchMedia("(pointer: coarse)").matches;
  $("invitation").textContent = coarse ? "Open an aerial or satellite image" : "Drop an aerial or satellite image here";
}

/** Shows the classes before there is a result. */
function fillKeys({ classes, palette, gsd_m: gsd, source }) {
  $("keys").replaceChildren(...classes.map((name, id) => element("li", {}, swatchOf(palette[id]), name)));
  const facts = [source && `Trained on: ${source}.`, gsd && `Made for images of ${sizes.format(gsd)} m per pixel.`];
  $("intro-source").textContent = facts.filter(Boolean).join(" ");
  $("intro-card").hidden = false;
}

function bandText({ band_names: names }) {
  return names.length === 3 ? names.join(", ") : "three bands";
}

function opened({ width, height, ground, step, part, parts, misfit, saves, shownWidth, shownHeight, rgba }) {
  Object.assign(state.file, { width, height, step, ground, part, misfit });
  $("stage").style.setProperty("--aspect", `${width} / ${height}`);
  viewer.open(shownWidth, shownHeight, rgba);
  $("empty").hidden = true;
  $("intro-card").hidden = $("steps-card").hidden = true;
  $("tools").hidden = $("file-card").hidden = false;
  $("file-name").textContent = state.file.name;
  const size = `${width} × ${height} pixels`;
  const reduced = step > 1 ? ` · shown at 1/${step} of its size` : "";
  $("file-facts").textContent = `${size} · ${groundText(ground)}${reduced}`;
  fillPart(part, width, height, parts);
  fillMisfit(misfit);
  $("styles").hidden = !saves.geotiff;
  for (const name of ["labels", "polygons"]) $(`style-${name}`).download = `${stemOf(state.file.name)}_${name}.qml`;
  $("save-geotiff").hidden = !saves.geotiff;
  $("save-geojson").hidden = !saves.geojson;
  $("gsd").value = "";
  $("gsd-field").hidden = ground !== null;
  $("view").setAttribute("aria-label", `${state.file.name}, ${size}. Arrow keys move, plus and minus zoom, 0 fits.`);
  setState("opened");
  moveFocus("segment");
}

/** Says which part of a large image is read, and how to get another. */
function fillPart({ left, top, across, width: wholeWidth, height: wholeHeight }, width, height, parts) {
  const isWhole = across === 1 && width === wholeWidth && height === wholeHeight;
  $("part").hidden = isWhole || !parts;
  const all = `${wholeWidth} × ${wholeHeight} pixels`;
  const gsd = state.manifest.dataset.gsd_m;
  const made = gsd ? ` The model was made for ${sizes.format(gsd)} m per pixel.` : "";
  $("part-text").textContent =
    across > 1
      ? `The whole image, ${all}, at 1/${numbers.format(across)} of its size. Zoom in to read a part at full ` +
        `size.${made}`
      : `A part of ${all}, from column ${left} and row ${top}, at full size.`;
  $("read-part").hidden = !(across > 1);
  $("read-whole").hidden = across > 1;
}

/** Asks which value is full brightness, where the file's type does not tell. */
function fillMisfit(misfit) {
  $("full-field").hidden = !misfit;
  $("full").value = "";
  if (misfit) {
    const { bits, largest, maxValue } = misfit;
    $("full-text").textContent =
      `This file has ${bits} bits, with values up to ${largest}; the model was trained on 0 to ${maxValue}. Which ` +
      `value stands for ${maxValue}? For instance 10000 for reflectances, 2047 for 11 bits, 65535 for 16 bits.`;
  }
  requireFull();
}

function requireFull() {
  $("segment").disabled = Boolean(state.file?.misfit) && !(Number($("full").value) > 0);
}

function groundText(ground) {
  if (!ground) return "size of a pixel unknown";
  const { across, down } = ground;
  const square = Math.abs(across - down) <= 0.005 * Math.max(across, down);
  return square ? `${sizes.format(across)} m per pixel` : `${sizes.format(across)} × ${sizes.format(down)} m per pixel`;
}

function progress({ done, total, seconds }) {
  const rate = seconds > 0 ? done / seconds : 0;
  $("progress").max = total;
  $("progress").value = done;
  $("progress-percent").textContent = `${Math.floor((100 * done) / total)} %`;
  const left = rate > 0 ? ` · ${numbers.format(rate)} tiles/s · ${duration((total - done) / rate)} left` : "";
  $("progress-text").textContent = `${done} of ${total} ${total === 1 ? "tile" : "tiles"}${left}`;
}

function rows({ first, rows: ids }) {
  viewer.addRows(first, ids);
}

function segmented({ counts, areas, tiles, seconds }) {
  Object.assign(state, { counts, areas });
  $("result-facts").textContent = `${tiles} ${tiles === 1 ? "tile" : "tiles"} in ${duration(seconds)}`;
  fillLegend();
  $("result-card").hidden = $("save-card").hidden = false;
  const most = counts.indexOf(Math.max(...counts));
  $("view").setAttribute("aria-label", `${state.file.name} with its classes; most of it is ${className(most)}.`);
  finish();
  moveFocus("segment");
  setState("result");
}

function saved({ blob, name }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function finish(note = "") {
  state.running = false;
  $("progress-card").hidden = true;
  $("choose").disabled = $("read-part").disabled = $("read-whole").disabled = false;
  requireFull();
  if (note) {
    viewer.clear();
    $("file-facts").textContent = note;
    setState("opened");
  }
}

function fail(job, text) {
  const titles = {
    load: "The model could not be loaded", open: "This image cannot be used", segment: "The image was not segmented",
    save: "The file was not saved", part: "This part cannot be read", whole: "This image cannot be used",
  };
  $("error-title").textContent = titles[job] ?? "This did not work";
  $("error-text").textContent = text;
  $("error").hidden = false;
  if (job === "load") {
    $("engine-text").textContent = "Not running";
    setState("broken");
  } else if (job === "segment") {
    finish("Not segmented.");
  } else if (["open", "part", "whole"].includes(job)) {
    state.file = null;
    closeImage();
    invite();
    setState("ready");
  }
}

// --- what the person does ---

function listen(send) {
  const choose = () => $("file").click();
  $("choose").onclick = $("choose-empty").onclick = choose;
  $("file").onchange = () => {
    const [file] = $("file").files;
    if (file) openFile(send, file);
    $("file").value = "";
  };
  $("sample").onclick = () => openSample(send);
  $("segment").onclick = () => segment(send);
  $("cancel").onclick = () => {
    $("cancel").disabled = true;
    send({ type: "cancel" });
  };
  $("save-labels").onclick = () => save(send, "labels");
  $("save-overlay").onclick = () => save(send, "overlay");
  $("save-geotiff").onclick = () => save(send, "geotiff");
  $("save-geojson").onclick = () => save(send, "geojson");
  $("read-part").onclick = () => reread(send, { type: "part", window: seenWindow() });
  $("read-whole").onclick = () => reread(send, { type: "whole" });
  $("full").oninput = requireFull;
  $("address-form").onsubmit = (event) => {
    event.preventDefault();
    openAddress(send, $("address").value.trim());
  };
  $("opacity").oninput = setOpacity;
  $("gsd").oninput = () => state.counts && fillLegend();
  $("compare").onchange = $("split").oninput = setSplit;
  $("zoom-in").onclick = () => viewer.zoomBy(1.5);
  $("zoom-out").onclick = () => viewer.zoomBy(1 / 1.5);
  $("zoom-fit").onclick = () => viewer.fit();
  addEventListener("keydown", () => (state.keyboard = true), true);
  addEventListener("pointerdown", () => (state.keyboard = false), true);
  listenToDrops(send);
}

function listenToDrops(send) {
  let inside = 0; // entered elements, because leaving one for its child is reported too
  const highlight = () => document.body.classList.toggle("dragging", inside > 0);
  addEventListener("dragenter", (event) => {
    if (event.dataTransfer?.types.includes("Files")) inside++;
    highlight();
  });
  addEventListener("dragleave", () => {
    inside = Math.max(0, inside - 1);
    highlight();
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    highlight();
    const [file] = event.dataTransfer?.files ?? [];
    if (file && state.manifest) openFile(send, file);
  });
}

function openFile(send, file) {
  read(send, file.name, { type: "open", file });
}

function openAddress(send, address) {
  let name = "";
  try {
    name = decodeURIComponent(new URL(address).pathname.split("/").pop()) || "image.tif";
  } catch {
    fail("open", "This is no address. Give one that begins with https:// and leads to a GeoTIFF file.");
    return;
  }
  read(send, name, { type: "open", address });
}

/** Reads another part of the image that is open. */
function reread(send, message) {
  read(send, state.file.name, message);
}

function read(send, name, message) {
  if (state.running) return;
  $("error").hidden = true;
  closeImage();
  state.file = { name };
  $("invitation").textContent = `Reading ${name} …`;
  setState("opening");
  send(message);
}

/** What the screen shows of the image, in pixels of the whole file. */
function seenWindow() {
  const { step, part } = state.file;
  const seen = viewer.seen();
  const [across, down] = [step * part.across, step * part.down];
  return {
    left: part.left + seen.left * across, top: part.top + seen.top * down,
    width: seen.width * across, height: seen.height * down,
  };
}

/** Takes the image and its result off the page. */
function closeImage() {
  state.counts = state.areas = null;
  $("view").hidden = $("tools").hidden = $("probe").hidden = true;
  $("result-card").hidden = $("save-card").hidden = $("file-card").hidden = true;
  $("empty").hidden = $("intro-card").hidden = $("steps-card").hidden = false;
}

async function openSample(send) {
  const name = state.page.sample;
  try {
    const answer = await fetch(new URL(name, base));
    if (!answer.ok) throw new Error(answer.statusText);
    openFile(send, new File([await answer.blob()], name));
  } catch {
    fail("open", `${name} could not be loaded. Is the web server still running?`);
  }
}

function segment(send) {
  state.running = true;
  $("error").hidden = $("result-card").hidden = $("save-card").hidden = true;
  $("progress-card").hidden = false;
  $("segment").disabled = $("choose").disabled = $("read-part").disabled = $("read-whole").disabled = true;
  $("cancel").disabled = false;
  state.visible.fill(true);
  $("compare").checked = false;
  setSplit();
  setOpacity();
  viewer.start(colours());
  setState("running");
  moveFocus("cancel");
  send({ type: "segment", full: state.file.misfit ? Number($("full").value) : null });
}

function save(send, what) {
  const stem = stemOf(state.file.name);
  const names = { labels: "labels.png", overlay: "overlay.png", geotiff: "labels.tif", geojson: "polygons.geojson" };
  const name = `${stem}_${names[what]}`;
  send({ type: "save", what, name, opacity: $("opacity").value / 100, visible: state.visible });
}

/** A file's name without its ending. */
function stemOf(name) {
  return name.replace(/\.[^.]*$/, "");
}

function setOpacity() {
  $("opacity-value").textContent = `${$("opacity").value} %`;
  viewer.opacity = $("opacity").value / 100;
  viewer.draw();
}

function setSplit() {
  const on = $("compare").checked;
  $("split").hidden = !on;
  viewer.split = on ? $("split").value / 100 : null;
  viewer.draw();
}

/** Red, green, blue, alpha of each id; ids that are ignored or switched off are transparent. */
function colours() {
  const table = new Uint8Array(256 * 4);
  state.manifest.dataset.palette.forEach((colour, id) => {
    if (state.visible[id]) table.set([...colour, 255], id * 4);
  });
  return table;
}

// --- legend ---

function fillLegend() {
  const { classes, palette } = state.manifest.dataset;
  const total = state.file.width * state.file.height;
  const counted = classes.map((name, id) => ({ id, name, colour: palette[id], count: state.counts[id] }));
  counted.sort((one, other) => other.count - one.count || one.id - other.id);
  const items = counted.map((entry) => legendItem(entry, total));
  const ignored = state.counts[state.manifest.dataset.ignore_index];
  if (ignored) items.push(element("li", { className: "none" }, `No data: ${percent(ignored / total)}`));
  $("legend").replaceChildren(...items);
}

function legendItem({ id, name, colour, count }, total) {
  const box = element("input", { type: "checkbox", checked: state.visible[id] });
  box.onchange = () => {
    state.visible[id] = box.checked;
    viewer.recolour(colours());
  };
  const bar = element("span", { className: "bar" });
  bar.style.background = css(colour);
  bar.style.width = `${(100 * count) / total}%`;
  const label = element("label", {}, box, swatchOf(colour), element("span", { className: "name" }, name));
  const share = element("span", { className: "share" }, percent(count / total));
  const row = element("div", { className: "entry" }, label, share);
  const typed = Number($("gsd").value);
  const size = state.areas ? area(state.areas[id]) : typed > 0 ? area(count * typed ** 2) : `${numbers.format(count)} px`;
  share.append(element("span", { className: "area" }, size));
  const track = element("span", { className: "track", ariaHidden: "true" }, bar);
  return element("li", { className: count ? "" : "absent" }, row, track);
}

function swatchOf(colour) {
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = css(colour);
  return swatch;
}

function css(colour) {
  return `rgb(${colour.join(" ")})`;
}

function className(id) {
  return state.manifest.dataset.classes[id] ?? "without data";
}

function showProbe(position) {
  const probe = $("probe");
  const known = position && state.counts && viewer.labels;
  probe.hidden = !known;
  if (!known) return;
  const id = viewer.labels[position.y * viewer.width + position.x];
  const { step, part } = state.file;
  const place = [part.left + position.x * step * part.across, part.top + position.y * step * part.down].map(Math.floor);
  probe.textContent = `${className(id)} · ${place.join(", ")}`;
  probe.style.transform = `translate(${position.screenX + 14}px, ${position.screenY + 14}px)`;
}

// --- words ---

function element(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${shares.format(100 * share)} %`;
}

function area(meters) {
  if (meters >= 1e6) return `${numbers.format(meters / 1e6)} km²`;
  if (meters >= 1e4) return `${numbers.format(meters / 1e4)} ha`;
  return `${numbers.format(meters)} m²`;
}

function duration(seconds) {
  if (seconds < 10) return `${numbers.format(seconds)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** Gives the keyboard the next button, where the last one has gone; a mouse needs no ring around it. */
function moveFocus(id) {
  $(id).focus({ preventScroll: true, focusVisible: state.keyboard });
}

function setState(name) {
  document.body.dataset.state = name;
}
