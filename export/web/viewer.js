// The image on the screen: classes over it, zoom, panning, and a divider between before and after.

const MOST_ZOOM = 32; // screen pixels for one of the image
const KEY_STEP = 60; // screen pixels that an arrow key moves

export class Viewer {
  /**
   * @param {HTMLCanvasElement} canvas on the page
   * @param {(position: {x: number, y: number, screenX: number, screenY: number} | null) => void} onPoint called with
   *     the pixel under the pointer
   * @param {(share: number) => void} onSplit called when the divider was dragged, with its place, 0..1
   */
  constructor(canvas, onPoint, onSplit) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onPoint = onPoint;
    this.onSplit = onSplit;
    this.opacity = 0.55;
    this.split = null; // 0..1 of the canvas's width, or null
    this.pointers = new Map();
    this.dragging = null;
    new ResizeObserver(() => this.#resized()).observe(canvas.parentElement);
    this.#listen();
  }

  /** Shows a picture, without classes. */
  open(width, height, rgba) {
    this.width = width;
    this.height = height;
    this.picture = new OffscreenCanvas(width, height);
    this.picture.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
    this.classes = new OffscreenCanvas(width, height);
    this.labels = null;
    this.canvas.hidden = false;
    this.#resized();
    this.fit();
  }

  /** Starts to show classes. `colours` holds red, green, blue, alpha for each of 256 ids. */
  start(colours) {
    this.labels = new Uint8Array(this.width * this.height).fill(255);
    this.known = 0; // rows
    this.colours = colours;
    this.classes.getContext("2d").clearRect(0, 0, this.width, this.height);
    this.draw();
  }

  /** The part of the picture that is on the screen, in its pixels. */
  seen() {
    const { clientWidth, clientHeight } = this.canvas;
    const [left, top] = [Math.max(0, -this.left / this.zoom), Math.max(0, -this.top / this.zoom)];
    const right = Math.min(this.width, (clientWidth - this.left) / this.zoom);
    const bottom = Math.min(this.height, (clientHeight - this.top) / this.zoom);
    return { left, top, width: Math.max(1, right - left), height: Math.max(1, bottom - top) };
  }

  /** Takes classes away again. */
  clear() {
    this.labels = null;
    this.draw();
  }

  /** Adds rows of class ids from row `first` on. */
  addRows(first, rows) {
    this.labels.set(rows, first * this.width);
    this.known = first + rows.length / this.width;
    this.#paint(first, this.known);
    this.draw();
  }

  /** Shows the classes in other colours. */
  recolour(colours) {
    this.colours = colours;
    this.#paint(0, this.known);
    this.draw();
  }

  #paint(first, end) {
    if (end <= first) return;
    const data = new ImageData(this.width, end - first);
    const words = new Uint32Array(data.data.buffer);
    const table = new Uint32Array(this.colours.buffer);
    const offset = first * this.width;
    for (let i = 0; i < words.length; i++) words[i] = table[this.labels[offset + i]];
    this.classes.getContext("2d").putImageData(data, 0, first);
  }

  /** Zooms and pans so that the whole image is seen. */
  fit() {
    const { clientWidth, clientHeight } = this.canvas;
    this.zoom = this.#fitZoom();
    this.left = (clientWidth - this.width * this.zoom) / 2;
    this.top = (clientHeight - this.height * this.zoom) / 2;
    this.draw();
  }

  #fitZoom() {
    return Math.min(this.canvas.clientWidth / this.width, this.canvas.clientHeight / this.height);
  }

  /** Zooms around a point of the canvas, its middle if none is given. */
  zoomBy(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const least = Math.min(1, this.#fitZoom()) / 2;
    const zoom = Math.min(Math.max(this.zoom * factor, least), MOST_ZOOM);
    this.left = x - ((x - this.left) * zoom) / this.zoom;
    this.top = y - ((y - this.top) * zoom) / this.zoom;
    this.zoom = zoom;
    this.draw();
  }

  panBy(x, y) {
    this.left += x;
    this.top += y;
    this.draw();
  }

  #resized() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    const wasFit = this.width && Math.abs(this.zoom - this.fittedZoom) < 1e-9;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    if (!this.width) return;
    this.fittedZoom = this.#fitZoom();
    if (wasFit) this.fit();
    else this.draw();
  }

  /** Draws before the next frame, once, however often it is asked. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#draw();
    });
  }

  #draw() {
    if (!this.picture) return;
    const { context, canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(ratio * this.zoom, 0, 0, ratio * this.zoom, ratio * this.left, ratio * this.top);
    context.imageSmoothingEnabled = this.zoom < 2;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, 0, 0);
    if (!this.labels) return;
    context.save();
    if (this.split !== null) {
      const from = (canvas.clientWidth * this.split - this.left) / this.zoom;
      context.beginPath();
      context.rect(from, 0, Math.max(0, this.width - from), this.height);
      context.clip();
    }
    context.globalAlpha = this.opacity;
    context.drawImage(this.classes, 0, 0);
    context.restore();
    if (this.split !== null) this.#drawDivider(ratio);
  }

  #drawDivider(ratio) {
    const { context, canvas } = this;
    const x = canvas.width * this.split;
    const y = canvas.height / 2;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#fff";
    context.shadowColor = "rgb(0 0 0 / 50%)";
    context.shadowBlur = 6 * ratio;
    context.fillRect(x - ratio, 0, 2 * ratio, canvas.height);
    context.beginPath();
    context.arc(x, y, 16 * ratio, 0, 2 * Math.PI);
    context.fill();
    context.shadowBlur = 0;
    context.strokeStyle = "#123047";
    context.lineWidth = 2 * ratio;
    for (const side of [-1, 1]) {
      context.beginPath();
      context.moveTo(x + side * 4 * ratio, y - 5 * ratio);
      context.lineTo(x + side * 9 * ratio, y);
      context.lineTo(x + side * 4 * ratio, y + 5 * ratio);
      context.stroke();
    }
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => this.zoomBy(2, event.offsetX, event.offsetY));
    canvas.addEventListener("pointerdown", (event) => this.#pressed(event));
    canvas.addEventListener("pointermove", (event) => this.#moved(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        this.pointers.delete(event.pointerId);
        this.dragging = null;
      });
    }
    canvas.addEventListener("pointerleave", () => this.onPoint(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #pressed(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    const divider = this.split === null ? -Infinity : this.split * this.canvas.clientWidth;
    this.dragging = Math.abs(event.offsetX - divider) < 22 ? "divider" : "image";
  }

  #moved(event) {
    const before = this.pointers.get(event.pointerId);
    const now = [event.offsetX, event.offsetY];
    if (!before) {
      this.#point(event);
      return;
    }
    if (this.pointers.size === 2) this.#pinched(event.pointerId, before, now);
    else if (this.dragging === "divider") this.onSplit(Math.min(Math.max(now[0] / this.canvas.clientWidth, 0), 1));
    else this.panBy(now[0] - before[0], now[1] - before[1]);
    this.pointers.set(event.pointerId, now);
  }

  #pinched(id, before, now) {
    const [other] = [...this.pointers].filter(([key]) => key !== id).map(([, place]) => place);
    const distance = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]) || 1;
    this.zoomBy(distance(now) / distance(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    this.panBy((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
  }

  #point(event) {
    const x = Math.floor((event.offsetX - this.left) / this.zoom);
    const y = Math.floor((event.offsetY - this.top) / this.zoom);
    const inside = x >= 0 && y >= 0 && x < this.width && y < this.height;
    this.onPoint(inside ? { x, y, screenX: event.offsetX, screenY: event.offsetY } : null);
  }

  #key(event) {
    const moves = {
      ArrowLeft: [KEY_STEP, 0], ArrowRight: [-KEY_STEP, 0], ArrowUp: [0, KEY_STEP], ArrowDown: [0, -KEY_STEP],
    };
    if (moves[event.key]) this.panBy(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.25);
    else if (event.key === "-") this.zoomBy(1 / 1.25);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }
}
