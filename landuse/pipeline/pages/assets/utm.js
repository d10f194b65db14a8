"use strict";

/* Of WGS 84: third flattening, eccentricity and its square, radius of the rectifying sphere. */
const ELLIPSOID = (() => {
  const flattening = 1 / 298.257223563;
  const n = flattening / (2 - flattening);
  const e2 = flattening * (2 - flattening);
  return { n, e2, e: Math.sqrt(e2), radiusM: (6378137 / (1 + n)) * (1 + n ** 2 / 4 + n ** 4 / 64) };
})();

/* Longitude and latitude on WGS 84, in degrees, of a place in a UTM zone, in metres.

   Krueger's series to the fourth power of the third flattening, after Karney, "Transverse Mercator with
   an accuracy of a few nanometers", J. Geodesy 85 (2011), equations 11, 14, 19 to 21 and 36. */
function lonLatOfUtm(eastM, northM, zone, isNorth) {
  const { n, e, e2, radiusM } = ELLIPSOID;
  const beta = [
    n / 2 - (2 / 3) * n ** 2 + (37 / 96) * n ** 3 - n ** 4 / 360,
    n ** 2 / 48 + n ** 3 / 15 - (437 / 1440) * n ** 4,
    (17 / 480) * n ** 3 - (37 / 840) * n ** 4,
    (4397 / 161280) * n ** 4,
  ];
  const xi = (northM - (isNorth ? 0 : 10e6)) / (0.9996 * radiusM);
  const eta = (eastM - 500e3) / (0.9996 * radiusM);
  let xiSphere = xi;
  let etaSphere = eta;
  beta.forEach((factor, index) => {
    const twice = 2 * (index + 1);
    xiSphere -= factor * Math.sin(twice * xi) * Math.cosh(twice * eta);
    etaSphere -= factor * Math.cos(twice * xi) * Math.sinh(twice * eta);
  });
  // From the conformal latitude to the geodetic one by Newton's method, on their tangents.
  const conformal = Math.sin(xiSphere) / Math.hypot(Math.sinh(etaSphere), Math.cos(xiSphere));
  let tangent = conformal;
  for (let round = 0; round < 4; round += 1) {
    const root = Math.hypot(1, tangent);
    const sigma = Math.sinh(e * Math.atanh((e * tangent) / root));
    const guess = tangent * Math.hypot(1, sigma) - sigma * root;
    const slope = (1 + (1 - e2) * tangent ** 2) / ((1 - e2) * root);
    tangent += ((conformal - guess) / Math.hypot(1, guess)) * slope;
  }
  const degrees = 180 / Math.PI;
  const lon = 6 * zone - 183 + Math.atan2(Math.sinh(etaSphere), Math.cos(xiSphere)) * degrees;
  return [((((lon + 180) % 360) + 360) % 360) - 180, Math.atan(tangent) * degrees];
}

/* Metres east and north in a UTM zone of a place in degrees: what lonLatOfUtm undoes, by equations 7 to 11
   and 35 of the same paper. */
function utmOfLonLat(lon, lat, zone, isNorth) {
  const { n, e, radiusM } = ELLIPSOID;
  const alpha = [
    n / 2 - (2 / 3) * n ** 2 + (5 / 16) * n ** 3 + (41 / 180) * n ** 4,
    (13 / 48) * n ** 2 - (3 / 5) * n ** 3 + (557 / 1440) * n ** 4,
    (61 / 240) * n ** 3 - (103 / 140) * n ** 4,
    (49561 / 161280) * n ** 4,
  ];
  const tangent = Math.tan((lat * Math.PI) / 180);
  const east = ((lon - 6 * zone + 183) * Math.PI) / 180; // sine and cosine know no antimeridian
  const root = Math.hypot(1, tangent);
  const sigma = Math.sinh(e * Math.atanh((e * tangent) / root));
  const conformal = tangent * Math.hypot(1, sigma) - sigma * root;
  const xiSphere = Math.atan2(conformal, Math.cos(east));
  const etaSphere = Math.asinh(Math.sin(east) / Math.hypot(conformal, Math.cos(east)));
  let xi = xiSphere;
  let eta = etaSphere;
  alpha.forEach((factor, index) => {
    const twice = 2 * (index + 1);
    xi += factor * Math.sin(twice * xiSphere) * Math.cosh(twice * etaSphere);
    eta += factor * Math.cos(twice * xiSphere) * Math.sinh(twice * etaSphere);
  });
  return [500e3 + 0.9996 * radiusM * eta, 0.9996 * radiusM * xi + (isNorth ? 0 : 10e6)];
}
