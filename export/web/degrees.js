// From the coordinates of a GeoTIFF to longitude and latitude of WGS 84, for the systems whose datum lies within a
// metre or so of it: degrees, Mercator, and transverse Mercator such as UTM. Others are left to programs that know all
// datums.

const MODEL = 1024, GEOGRAPHIC_CODE = 2048, DATUM_CODE = 2050, ANGULAR_UNIT = 2054, PROJECTED_CODE = 3072;
const METHOD = 3075, LINEAR_UNIT = 3076, PARALLEL = 3078, ORIGIN_EAST = 3080, ORIGIN_NORTH = 3081;
const FALSE_EAST = 3082, FALSE_NORTH = 3083, SCALE = 3092, PRIME_MERIDIAN = 2051;
const GEOGRAPHIC = 2, USER_DEFINED = 32767, METRE = 9001, DEGREE = 9102, GREENWICH = 8901;
const TRANSVERSE_MERCATOR = 1, MERCATOR = 7;
const SEMI_MAJOR = 6378137, FLATTENING = 1 / 298.257223563; // that of GRS 80 differs by less than a millimetre
const N = FLATTENING / (2 - FLATTENING), ECCENTRICITY = Math.sqrt(FLATTENING * (2 - FLATTENING));
const RECTIFYING = (SEMI_MAJOR / (1 + N)) * (1 + N ** 2 / 4 + N ** 4 / 64);
// WGS 84, ETRS89, NAD83, GDA94, GDA2020, NZGD2000, SIRGAS 2000, CSRS, 2011: as systems and as datums.
const ALIGNED = new Set([4326, 4258, 4269, 4283, 7844, 4167, 4674, 4617, 6318, 4979, 4937]);
const ALIGNED_DATUMS = new Set([6326, 6258, 6269, 6283, 1168, 6167, 6674, 6140, 1116]);
// First code, last code, number of the first code's zone, whether zones lie south of the equator.
const UTM = [
  [32601, 32660, 1, false], [32701, 32760, 1, true], [25828, 25838, 28, false], [26901, 26923, 1, false],
  [28348, 28358, 48, true], [7846, 7859, 46, true], [31965, 31976, 11, false], [31977, 31985, 17, true],
  [6330, 6348, 1, false],
];
// Krueger's series in N, to the fourth power: https://doi.org/10.1007/s00190-011-0445-3
const FORWARD = [
  N / 2 - (2 * N ** 2) / 3 + (5 * N ** 3) / 16 + (41 * N ** 4) / 180,
  (13 * N ** 2) / 48 - (3 * N ** 3) / 5 + (557 * N ** 4) / 1440,
  (61 * N ** 3) / 240 - (103 * N ** 4) / 140,
  (49561 * N ** 4) / 161280,
];
const INVERSE = [
  N / 2 - (2 * N ** 2) / 3 + (37 * N ** 3) / 96 - N ** 4 / 360,
  N ** 2 / 48 + N ** 3 / 15 - (437 * N ** 4) / 1440,
  (17 * N ** 3) / 480 - (37 * N ** 4) / 840,
  (4397 * N ** 4) / 161280,
];

/**
 * Gives the way from coordinates to degrees.
 * @param {Record<number, number>} keys of the GeoTIFF
 * @returns {((x: number, y: number) => [number, number]) | null} longitude and latitude; null where this page does not
 *     know the system. Longitudes run on across the date line
 */
export function degreesOf(keys) {
  const code = keys[PROJECTED_CODE];
  const isMap = keys[MODEL] === undefined ? code !== undefined : keys[MODEL] !== GEOGRAPHIC;
  if (!isMap) {
    const plain = (keys[ANGULAR_UNIT] ?? DEGREE) === DEGREE || keys[ANGULAR_UNIT] === 9122;
    return plain && isAligned(keys) ? (x, y) => [x, y] : null;
  }
  if (code === 3857 || code === 3785) {
    return (x, y) => [inDegrees(x / SEMI_MAJOR), inDegrees(Math.atan(Math.sinh(y / SEMI_MAJOR)))];
  }
  if (code === 3395) return mercator(0, 1, 0, 0);
  if ((keys[LINEAR_UNIT] ?? METRE) !== METRE) return null;
  const utm = UTM.find(([first, last]) => code >= first && code <= last);
  if (utm) {
    const [first, , zone, south] = utm;
    const east = 6 * (zone + code - first) - 183;
    return transverseMercator({ east, north: 0, scale: 0.9996, x: 500000, y: south ? 1e7 : 0 });
  }
  if ((code !== undefined && code !== USER_DEFINED) || !isAligned(keys)) return null;
  const origin = { east: keys[ORIGIN_EAST] ?? 0, north: keys[ORIGIN_NORTH] ?? 0, scale: keys[SCALE] ?? 1 };
  const [x, y] = [keys[FALSE_EAST] ?? 0, keys[FALSE_NORTH] ?? 0];
  if (keys[METHOD] === TRANSVERSE_MERCATOR) return transverseMercator({ ...origin, x, y });
  if (keys[METHOD] !== MERCATOR || origin.north) return null;
  const sine = Math.sin(radians(keys[PARALLEL] ?? 0));
  const reach = Math.cos(radians(keys[PARALLEL] ?? 0)) / Math.sqrt(1 - (ECCENTRICITY * sine) ** 2);
  return mercator(origin.east, origin.scale * reach, x, y);
}

function isAligned(keys) {
  if ((keys[PRIME_MERIDIAN] ?? GREENWICH) !== GREENWICH) return false;
  const system = keys[GEOGRAPHIC_CODE];
  return ALIGNED.has(system) || ((system ?? USER_DEFINED) === USER_DEFINED && ALIGNED_DATUMS.has(keys[DATUM_CODE]));
}

function mercator(east, scale, x0, y0) {
  return (x, y) => {
    const isometric = (y - y0) / (SEMI_MAJOR * scale);
    return [east + inDegrees((x - x0) / (SEMI_MAJOR * scale)), inDegrees(geodetic(Math.sinh(isometric)))];
  };
}

function transverseMercator({ east, north, scale, x: x0, y: y0 }) {
  const start = along(radians(north));
  return (x, y) => {
    const up = (y - y0) / (scale * RECTIFYING) + start, right = (x - x0) / (scale * RECTIFYING);
    let xi = up, eta = right;
    INVERSE.forEach((factor, index) => {
      const j = 2 * (index + 1);
      xi -= factor * Math.sin(j * up) * Math.cosh(j * right);
      eta -= factor * Math.cos(j * up) * Math.sinh(j * right);
    });
    const tangent = Math.sin(xi) / Math.hypot(Math.sinh(eta), Math.cos(xi)); // of the conformal latitude
    return [east + inDegrees(Math.atan2(Math.sinh(eta), Math.cos(xi))), inDegrees(geodetic(tangent))];
  };
}

/** The way along the meridian from the equator, in radians of the rectifying sphere. */
function along(latitude) {
  const sine = Math.sin(latitude);
  const conformal = Math.atan(Math.sinh(Math.atanh(sine) - ECCENTRICITY * Math.atanh(ECCENTRICITY * sine)));
  return FORWARD.reduce((sum, factor, index) => sum + factor * Math.sin(2 * (index + 1) * conformal), conformal);
}

/** The latitude whose conformal latitude has this tangent. */
function geodetic(tangent) {
  const isometric = Math.asinh(tangent);
  let latitude = Math.atan(tangent);
  for (let i = 0; i < 6; i++) {
    latitude = Math.atan(Math.sinh(isometric + ECCENTRICITY * Math.atanh(ECCENTRICITY * Math.sin(latitude))));
  }
  return latitude;
}

function radians(degrees) {
  return (degrees * Math.PI) / 180;
}

function inDegrees(angle) {
  return (angle * 180) / Math.PI;
}
