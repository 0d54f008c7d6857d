// The work of the page, beside it, so that the tab stays responsive.
//
// A classic worker, because LiteRT loads its WebAssembly with importScripts, which module workers lack. The page starts
// it by way of a blob, which makes it inherit the page's Content-Security-Policy; see app.js.

"use strict";

let engine = null;

self.onmessage = async ({ data }) => {
  try {
    engine ??= await import(new URL("engine.js", data.base ?? self.location.href).href);
    await engine.handle(data);
  } catch (error) {
    const known = error instanceof Error && error.constructor.name === "Unreadable";
    const memory = error instanceof RangeError || /memory|allocation/i.test(error?.message ?? "");
    const message = known
      ? error.message
      : memory
        ? "There is not enough memory for this image. Close other tabs, or cut the image."
        : `Something went wrong in this page: ${error?.message ?? error}`;
    self.postMessage({ type: "failed", job: data.type, message });
  }
};
