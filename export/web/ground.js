// Where an image lies and how large its pixels are on the ground, from the tags of a GeoTIFF. What the file does not
// say stays unknown.

const MODEL = 1024, RASTER_TYPE = 1025, GEOGRAPHIC_CODE = 2048, ANGULAR_UNIT = 2054; // keys of the directory
const PROJECTED_CODE = 3072;
const METHOD = 3075, LINEAR_UNIT = 3076, LINEAR_UNIT_SIZE = 3077, PARALLEL = 3078, ORIGIN_NORTH = 3081;
const FALSE_NORTH = 3083, SCALE = 3092;
const PROJECTED = 1, GEOGRAPHIC = 2, USER_DEFINED = 32767, POINT = 2;
const DOUBLES = 34736; // the tag that holds the keys' numbers
const METRES = { 9001: 1, 9002: 0.3048, 9003: 1200 / 3937, 9036: 1000 };
const DEGREES = { 9101: 180 / Math.PI, 9102: 1, 9105: 0.9, 9122: 1 };
const SEMI_MAJOR = 6378137, ECCENTRICITY2 = 0.0066943799901413165; // WGS 84; others differ by less than 0.1 %
const ECCENTRICITY = Math.sqrt(ECCENTRICITY2);

const SPHERICAL_MERCATOR = new Set([3857, 3785]), WORLD_MERCATOR = 3395, MERCATOR_METHOD = 7;
// Transverse Mercator is nearly true to area where it is used; Lambert azimuthal, Albers, sinusoidal and the
// equal-area cylinder are true.
const TRUE_METHODS = new Set([1, 10, 11, 24, 28]);
const EPSG_CODES = [2000, 32766];
const UTM = [[32601, 32660], [32701, 32760]]; // WGS 84, which files name without their unit
// Projections of EPSG whose areas PROJ finds to be more than 1 % off somewhere in their area of use.
const DISTORTED = new Set([
  2138, 2318, 2963, 2984, 2985, 2986, 3001, 3031, 3032, 3033, 3034, 3112, 3161, 3162, 3287, 3288, 3289, 3290, 3291,
  3292, 3293, 3294, 3347, 3348, 3349, 3388, 3411, 3412, 3413, 3453, 3580, 3581, 3752, 3786, 3797, 3798, 3799, 3832,
  3851, 3976, 3978, 3979, 3994, 3995, 3996, 4087, 4088, 4462, 5017, 5041, 5042, 5320, 5321, 5330, 5482, 5530, 5632,
  5634, 5637, 5639, 5641, 5880, 5890, 5936, 5937, 5938, 5939, 5940, 6362, 6372, 6622, 7082, 7755, 7845, 9040, 9354,
  9377, 21100, 27701, 27702, 27703, 27704, 27705, 27706, 27707, 29100, 29101, 32098, 32099, 32198, 32199, 32661,
  32662, 32663, 32761,
]);

/**
 * Says where a TIFF file lies.
 * @param {{pixelScale?: number[], tiePoints?: number[], transformation?: number[], geoKeys?: number[],
 *     geoDoubles?: number[], geoAscii?: string}} tags of the file
 * @returns {{transform: number[], keys: object, tags: object, exact: boolean} | null} from (column, row), counted from
 *     the corner of the first pixel, to coordinates: x = a column + b row + c, y = d column + e row + f; the keys of
 *     the GeoTIFF, and the tags that hold them; whether the transform is the file's own and not fitted to tie points
 */
export function placeOf(tags) {
  const found = transformOf(tags);
  if (!found) return null;
  const keys = keysOf(tags);
  let [a, b, c, d, e, f] = found;
  if (keys[RASTER_TYPE] === POINT) [c, f] = [c - (a + b) / 2, f - (d + e) / 2]; // coordinates are those of middles
  const own = Boolean(tags.transformation?.length >= 8 || tags.pixelScale?.length >= 2);
  return { transform: [a, b, c, d, e, f], keys, tags, exact: own };
}

/** The place of a part: its first pixel is at (left, top), its pixels are `across` and `down` of the whole's. */
export function within(place, { left, top, across, down }) {
  const [a, b, c, d, e, f] = place.transform;
  const transform = [a * across, b * down, a * left + b * top + c, d * across, e * down, d * left + e * top + f];
  return { ...place, transform };
}

/**
 * Says how large pixels are on the ground.
 * @param {ReturnType<typeof placeOf>} place of the image
 * @param {number} width columns of the image
 * @param {number} height rows of the image
 * @returns {{across: number, down: number, rowArea: (row: number) => number} | null} metres across and down the pixel
 *     in the middle, and the square metres of a pixel in a row; null where the file does not say
 */
export function groundOf(place, width, height) {
  const metric = place && metricOf(place.keys);
  if (!metric) return null;
  const [a, b, c, d, e, f] = place.transform;
  const column = width / 2;
  const at = (row) => metric(a * column + b * row + c, d * column + e * row + f);
  const rowArea = (row) => {
    const [east, north] = at(row + 0.5);
    return Math.abs(a * e - b * d) * east * north;
  };
  const [east, north] = at(height / 2);
  const across = Math.hypot(a * east, d * north);
  const down = Math.hypot(b * east, e * north);
  const known = [across, down, rowArea(0), rowArea(height - 1)].every((size) => Number.isFinite(size) && size > 0);
  return known ? { across, down, rowArea } : null;
}

/** From (column, row) to coordinates: x = a column + b row + c, y = d column + e row + f. */
function transformOf({ pixelScale, tiePoints, transformation }) {
  if (transformation?.length >= 8) {
    const [a, b, , c, d, e, , f] = transformation;
    return [a, b, c, d, e, f];
  }
  if (!tiePoints || tiePoints.length < 6) return null;
  if (pixelScale?.length >= 2) {
    const [column, row, , x, y] = tiePoints;
    const [across, down] = pixelScale;
    return [across, 0, x - across * column, 0, -down, y + down * row];
  }
  return fitted(tiePoints);
}

/** The transform that fits tie points best; null where they do not lie on a plane to a hundredth of their extent. */
function fitted(tiePoints) {
  const points = [];
  for (let i = 0; i + 5 < tiePoints.length; i += 6) {
    points.push({ column: tiePoints[i], row: tiePoints[i + 1], to: [tiePoints[i + 3], tiePoints[i + 4]] });
  }
  const mean = (pick) => points.reduce((sum, point) => sum + pick(point), 0) / points.length;
  const column0 = mean((point) => point.column), row0 = mean((point) => point.row);
  const product = (one, other) => points.reduce((sum, point) => sum + one(point) * other(point), 0);
  const u = (point) => point.column - column0, v = (point) => point.row - row0;
  const uu = product(u, u), uv = product(u, v), vv = product(v, v);
  const determinant = uu * vv - uv * uv;
  if (!(determinant > 1e-9 * uu * vv)) return null; // fewer than three points, or all on a line
  const coefficients = [0, 1].flatMap((axis) => {
    const mean0 = mean((point) => point.to[axis]);
    const z = (point) => point.to[axis] - mean0;
    const uz = product(u, z), vz = product(v, z);
    const byColumn = (uz * vv - vz * uv) / determinant, byRow = (vz * uu - uz * uv) / determinant;
    const left = product((point) => z(point) - byColumn * u(point) - byRow * v(point), z);
    if (!(left <= 1e-4 * product(z, z))) return [];
    return [byColumn, byRow, mean0 - byColumn * column0 - byRow * row0];
  });
  return coefficients.length === 6 ? coefficients : null;
}

/** The keys of the GeoTIFF's directory: numbers by their ids. */
function keysOf({ geoKeys = [], geoDoubles = [] }) {
  const keys = {};
  for (let i = 4; i + 3 < geoKeys.length; i += 4) {
    const [key, place, , value] = geoKeys.slice(i, i + 4);
    if (place === 0) keys[key] = value;
    else if (place === DOUBLES) keys[key] = geoDoubles[value];
  }
  return keys;
}

/** Metres on the ground, east and north, for one unit of the coordinates at (x, y); null where that is not known. */
function metricOf(keys) {
  const model = keys[MODEL] ?? (keys[PROJECTED_CODE] ? PROJECTED : keys[GEOGRAPHIC_CODE] ? GEOGRAPHIC : undefined);
  if (model === GEOGRAPHIC) {
    const degrees = DEGREES[keys[ANGULAR_UNIT] ?? 9102];
    const radians = (degrees * Math.PI) / 180;
    return degrees ? (x, y) => radii(y * radians).map((radius) => radius * radians) : null;
  }
  if (model !== PROJECTED) return null;
  const unit = unitOf(keys);
  if (!unit) return null;
  const code = keys[PROJECTED_CODE];
  if (SPHERICAL_MERCATOR.has(code)) return mercator(unit, 0, { scale: 1, falseNorth: 0 });
  if (code === WORLD_MERCATOR) return mercator(unit, ECCENTRICITY, { scale: 1, falseNorth: 0 });
  if (code === USER_DEFINED && keys[METHOD] === MERCATOR_METHOD && !keys[ORIGIN_NORTH]) {
    const [normal] = radii(((keys[PARALLEL] ?? 0) * Math.PI) / 180);
    const scale = (keys[SCALE] ?? 1) * (normal / SEMI_MAJOR);
    return mercator(unit, ECCENTRICITY, { scale, falseNorth: (keys[FALSE_NORTH] ?? 0) * unit });
  }
  const isTrue =
    code === USER_DEFINED || code === undefined
      ? TRUE_METHODS.has(keys[METHOD])
      : code >= EPSG_CODES[0] && code <= EPSG_CODES[1] && !DISTORTED.has(code);
  return isTrue ? () => [unit, unit] : null;
}

function unitOf(keys) {
  const code = keys[PROJECTED_CODE];
  const isUtm = UTM.some(([first, last]) => code >= first && code <= last);
  const unit = keys[LINEAR_UNIT] ?? (isUtm || SPHERICAL_MERCATOR.has(code) ? 9001 : undefined);
  return unit === USER_DEFINED ? keys[LINEAR_UNIT_SIZE] : METRES[unit];
}

/** Metres east and north for one radian of longitude and latitude. */
function radii(latitude) {
  if (!(Math.abs(latitude) <= Math.PI / 2)) return [NaN, NaN];
  const curvature = 1 - ECCENTRICITY2 * Math.sin(latitude) ** 2;
  const east = (SEMI_MAJOR / Math.sqrt(curvature)) * Math.cos(latitude);
  return [east, (SEMI_MAJOR * (1 - ECCENTRICITY2)) / curvature ** 1.5];
}

/** Mercator stretches both axes, more so away from the equator: the latitude of y says how much. */
function mercator(unit, eccentricity, { scale, falseNorth }) {
  return (x, y) => {
    const isometric = (y * unit - falseNorth) / (SEMI_MAJOR * scale);
    let latitude = Math.atan(Math.sinh(isometric));
    for (let i = 0; i < 6 && eccentricity; i++) {
      const flattened = eccentricity * Math.atanh(eccentricity * Math.sin(latitude));
      latitude = Math.atan(Math.sinh(isometric + flattened));
    }
    const [east, north] = radii(latitude);
    const perRadian = SEMI_MAJOR * scale; // of longitude, in metres of the map
    // Of the spherical projection, y is that of a sphere: one radian of latitude is perRadian / cos(latitude) there.
    const stretched = eccentricity ? north / east : 1 / Math.cos(latitude);
    return [(unit * east) / perRadian, (unit * north) / (perRadian * stretched)];
  };
}
