// From class ids to polygons: outlines of regions of one class, whose pixels touch at sides.

const UP = 0, RIGHT = 1, DOWN = 2, LEFT = 3;
const STEP_X = [0, 1, 0, -1], STEP_Y = [-1, 0, 1, 0];
// The two pixels ahead of a corner, by the way one goes: the one to the right, where the region lies, and the left one.
const AHEAD = [
  [0, -1, -1, -1],
  [0, 0, 0, -1],
  [-1, 0, 0, 0],
  [-1, -1, -1, 0],
];
const FEATURES_AT_ONCE = 2000;

/** Runs of equal ids in the rows of an image, and which of them make one region. */
class Runs {
  constructor(width, height, labels) {
    Object.assign(this, { width, height, labels });
    this.rows = new Uint32Array(height + 1); // the first run of each row
    let count = 0;
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) if (x === 0 || labels[i] !== labels[i - 1]) count++;
      this.rows[y + 1] = count;
    }
    this.starts = new Uint32Array(count); // first column
    this.parents = new Uint32Array(count);
    for (let y = 0, i = 0, run = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (x === 0 || labels[i] !== labels[i - 1]) {
          this.starts[run] = x;
          this.parents[run] = run++;
        }
      }
      if (y > 0) this.#join(y);
    }
  }

  /** Where a run ends. */
  end(run, y) {
    return run + 1 < this.rows[y + 1] ? this.starts[run + 1] : this.width;
  }

  /** The run of a pixel. */
  at(x, y) {
    let low = this.rows[y], high = this.rows[y + 1] - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle] <= x) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The first run of a run's region. */
  root(run) {
    const { parents } = this;
    while (parents[run] !== run) run = parents[run] = parents[parents[run]];
    return run;
  }

  /** Joins the runs of a row with those above them. */
  #join(y) {
    let above = this.rows[y - 1];
    for (let run = this.rows[y]; run < this.rows[y + 1]; run++) {
      const end = this.end(run, y);
      while (this.end(above, y - 1) <= this.starts[run]) above++;
      for (let other = above; other < this.rows[y] && this.starts[other] < end; other++) {
        const id = this.labels[y * this.width + this.starts[run]];
        if (this.labels[(y - 1) * this.width + this.starts[other]] === id) {
          const [one, two] = [this.root(run), this.root(other)];
          this.parents[Math.max(one, two)] = Math.min(one, two);
        }
      }
    }
  }
}

/**
 * Yields the regions of the wanted classes.
 * @param {number} width columns
 * @param {number} height rows
 * @param {Uint8Array} labels class ids, row by row
 * @param {(id: number) => boolean} wanted which ids become polygons
 * @param {(row: number) => number} rowArea what a pixel of a row adds to a region's area
 * @returns {Generator<{id: number, pixels: number, area: number, rings: number[][]}>} the outline first, holes after
 *     it; a ring is [x, y, x, y, ...] of corners of pixels, closed, with a point wherever three regions meet
 */
export function* regions(width, height, labels, wanted, rowArea) {
  const runs = new Runs(width, height, labels);
  const found = new Map(); // by the first run
  const seen = new Uint8Array(runs.starts.length);
  for (let y = 0; y < height; y++) {
    for (let run = runs.rows[y]; run < runs.rows[y + 1]; run++) {
      const x = runs.starts[run];
      const id = labels[y * width + x];
      if (!wanted(id)) continue;
      const root = runs.root(run);
      if (!found.has(root)) found.set(root, { id, pixels: 0, area: 0, rings: [] });
      const region = found.get(root);
      const length = runs.end(run, y) - x;
      region.pixels += length;
      region.area += length * rowArea(y);
      if (seen[run]) continue;
      for (const ring of simple(outline(runs, seen, x, y, id))) {
        if (turn(ring) > 0) region.rings.unshift(ring);
        else region.rings.push(ring);
      }
    }
  }
  yield* found.values();
}

/** The corners of a border, beginning on the left side of a pixel, with the region on the right hand. */
function outline(runs, seen, startX, startY, id) {
  const { width, height, labels } = runs;
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? -1 : labels[y * width + x]);
  const ring = [];
  let x = startX, y = startY + 1, way = UP;
  do {
    x += STEP_X[way];
    y += STEP_Y[way];
    if (way === UP) seen[runs.at(x, y)] = 1;
    const [rightX, rightY, leftX, leftY] = AHEAD[way];
    const left = at(x + leftX, y + leftY);
    if (at(x + rightX, y + rightY) !== id) {
      ring.push(x, y);
      way = (way + 1) % 4;
    } else if (left === id) {
      ring.push(x, y);
      way = (way + 3) % 4;
    } else if (left !== behind(at, x, y, way)) {
      ring.push(x, y); // the neighbour changes: its own outline has a corner here
    }
  } while (!(x === startX && y === startY + 1 && way === UP));
  return ring;
}

/** The pixel to the left of the side that was just passed. */
function behind(at, x, y, way) {
  if (way === UP) return at(x - 1, y);
  if (way === RIGHT) return at(x - 1, y - 1);
  if (way === DOWN) return at(x, y - 1);
  return at(x, y);
}

/** Cuts a ring where it meets itself, so that each part passes a corner once; closes the parts. */
function* simple(ring) {
  const stack = [];
  const places = new Map();
  for (let i = 0; i < ring.length; i += 2) {
    const key = `${ring[i]},${ring[i + 1]}`;
    if (places.has(key)) {
      const from = places.get(key);
      const loop = stack.splice(from);
      for (let j = 0; j < loop.length; j += 2) places.delete(`${loop[j]},${loop[j + 1]}`);
      yield [...loop, loop[0], loop[1]];
    }
    places.set(key, stack.length);
    stack.push(ring[i], ring[i + 1]);
  }
  yield [...stack, stack[0], stack[1]];
}

/** Twice the area of a closed ring; positive where it goes round clockwise on the screen. */
function turn(ring) {
  let sum = 0;
  for (let i = 0; i + 3 < ring.length; i += 2) sum += ring[i] * ring[i + 3] - ring[i + 2] * ring[i + 1];
  return sum;
}

/**
 * Writes regions as GeoJSON: WGS 84, seven decimals, outlines against the clock (RFC 7946). The first corner lies
 * between 180 degrees west and east; what lies across the date line from it goes on beyond, and is not cut.
 * @param {Iterable<{id: number, pixels: number, area: number, rings: number[][]}>} found the regions
 * @param {string[]} classes names by id
 * @param {number[]} transform from (column, row) to coordinates
 * @param {(x: number, y: number) => [number, number]} degrees from coordinates to longitude and latitude
 * @param {string} unit of the area: "m2", or "px" for pixels
 * @returns {Blob} the file
 */
export function encodeGeoJson(found, classes, [a, b, c, d, e, f], degrees, unit) {
  const parts = ['{"type":"FeatureCollection","features":[\n'];
  let lines = [];
  let first = true;
  let turns = null; // of 360 degrees that are taken off
  const corner = (x, y) => {
    const [longitude, latitude] = degrees(a * x + b * y + c, d * x + e * y + f);
    turns ??= Math.round(longitude / 360);
    return [longitude - 360 * turns, latitude].map((angle) => Number(angle.toFixed(7)));
  };
  const flush = () => {
    if (!lines.length) return;
    parts.push(new Blob([(first ? "" : ",\n") + lines.join(",\n")]));
    first = false;
    lines = [];
  };
  for (const { id, pixels, area, rings } of found) {
    const coordinates = rings.map((ring, index) => {
      const points = [];
      for (let i = 0; i < ring.length; i += 2) points.push(corner(ring[i], ring[i + 1]));
      return turn(points.flat()) > 0 === (index === 0) ? points : points.reverse(); // north is up here
    });
    const properties = { class_id: id, class: classes[id], [`area_${unit}`]: Number(area.toFixed(3)), pixels };
    lines.push(JSON.stringify({ type: "Feature", properties, geometry: { type: "Polygon", coordinates } }));
    if (lines.length === FEATURES_AT_ONCE) flush();
  }
  flush();
  parts.push("\n]}\n");
  return new Blob(parts, { type: "application/geo+json" });
}
