// The model: its manifest, its file, and LiteRT that runs it.

import { Unreadable } from "./errors.js";

const THREADS_AT_MOST = 8; // more do not make tiles of this size faster
const CHATTER = /^(INFO|WARNING): /; // what LiteRT tells of its own parts, such as accelerators that no page has

/**
 * Reads the manifest, checks the model file against it, and gets LiteRT ready.
 * @param {URL} base of the page
 * @returns {Promise<object>} manifest and settings of the page; the tile (height, width) and stride (down, across); the
 *     number of threads; whether the model file was checked; `input`, to be filled with the pixels of a tile, and
 *     `run`, which then gives their logits (height, width, classes)
 */
export async function loadModel(base) {
  const [manifest, page] = await Promise.all([fetchedJson("manifest.json", base), fetchedJson("page.json", base)]);
  const artifact = manifest.artifacts[0];
  const [content, litert] = await Promise.all([fetched(artifact.path, base), loadRuntime(base)]);
  const checked = await checkSum(content, artifact);
  const model = await litert.loadAndCompile(content, {
    accelerator: "wasm", // the same kernels everywhere; GPUs would round differently
    cpuOptions: { numThreads: litert.threads },
  });
  const [height, width] = artifact.tile;
  const shape = [1, height, width, manifest.dataset.bands];
  const input = new (artifact.input.dtype === "uint8" ? Uint8Array : Float32Array)(shape.reduce((a, b) => a * b));
  const { scale, zero_point: zeroPoint } = artifact.outputs.find((output) => output.name === "logits");

  async function run() {
    const pixels = new litert.Tensor(input, shape);
    const outputs = await model.run({ pixels });
    const stored = outputs.logits.toTypedArray();
    for (const tensor of [pixels, ...Object.values(outputs)]) tensor.delete();
    if (!scale) return stored;
    const step = Math.fround(scale);
    return Float32Array.from(stored, (value) => (value - zeroPoint) * step);
  }

  const [across, down] = manifest.inference.stride;
  return { manifest, page, tile: artifact.tile, stride: [down, across], threads: litert.threads, checked, input, run };
}

async function loadRuntime(base) {
  if (typeof WebAssembly !== "object") {
    throw new Unreadable("This browser has no WebAssembly. Use a current Chrome, Edge, Firefox or Safari.");
  }
  const vendor = new URL("vendor/", base);
  const { Environment, loadLiteRt, loadAndCompile, supportsFeature, Tensor } = await import(
    new URL("litert.js", vendor).href
  );
  // Looked for otherwise, though the model runs on the processor, and its absence written to the console.
  const create = Environment.create.bind(Environment);
  Environment.create = (options = {}) => create({ webGpuDevice: null, ...options });
  // Several threads share memory, which browsers allow only to pages that their server has isolated (serve.py does).
  const features = await Promise.all(["relaxedSimd", "threads"].map(supportsFeature));
  const threaded = self.crossOriginIsolated && features.every(Boolean);
  self.Module = {
    locateFile: (name) => new URL(`wasm/${name}`, vendor).href,
    mainScriptUrlOrBlob: new URL("wasm/litert_wasm_threaded_internal.js", vendor).href,
    printErr: (line) => (CHATTER.test(line) ? console.debug(line) : console.error(line)), // all of its log comes here
  };
  try {
    await loadLiteRt(new URL("wasm/", vendor).href, { threads: threaded });
  } catch (error) {
    throw new Unreadable(
      `The runtime LiteRT did not start: ${error?.message ?? error}. A browser with WebAssembly SIMD is needed, such ` +
        "as a current Chrome, Edge, Firefox or Safari.",
    );
  }
  const threads = threaded ? Math.min(THREADS_AT_MOST, navigator.hardwareConcurrency ?? 1) : 1;
  return { loadAndCompile, Tensor, threads };
}

async function fetched(name, base) {
  let answer;
  try {
    answer = await fetch(new URL(name, base));
  } catch {
    throw new Unreadable(`${name} could not be loaded. Is the web server still running?`);
  }
  if (!answer.ok) throw new Unreadable(`${name} is missing on the server (${answer.status}). Export the page again.`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function fetchedJson(name, base) {
  const content = await fetched(name, base);
  try {
    return JSON.parse(new TextDecoder().decode(content));
  } catch {
    throw new Unreadable(`${name} is damaged. Copy the folder again, or export the page again.`);
  }
}

/**
 * Compares the model file with the SHA-256 in the manifest.
 * @returns {Promise<boolean>} false where the browser has no SHA-256: on pages over http from another machine
 */
async function checkSum(content, artifact) {
  if (!crypto.subtle) return false;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const actual = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (actual !== artifact.sha256[artifact.path]) {
    throw new Unreadable(
      `${artifact.path} is not the file that was exported (its SHA-256 differs). Copy the folder again, or export ` +
        "the page again.",
    );
  }
  return true;
}
