// What the page knows: everything by its id, as the server last said it.

export const mesh = {
  about: {},
  sources: new Map(),
  sites: new Map(),
  sensors: new Map(),
  readings: new Map(), // [sensor_id, measured_us, values, flags]
  alerts: new Map(),
  pipeline: null,
  ledger: null,
};
const KEYS = { sites: "site_id", sensors: "sensor_id", alerts: "alert_id", sources: "name", readings: 0 };

/** Takes a frame in; says which parts it changed. */
export function take(frame) {
  const changed = new Set();
  if (frame.reset) {
    for (const part of Object.keys(KEYS)) {
      mesh[part].clear();
      changed.add(part);
    }
  }
  for (const [part, key] of Object.entries(KEYS)) {
    for (const entry of frame[part] ?? []) {
      mesh[part].set(entry[key], entry);
      changed.add(part);
    }
  }
  for (const [part, key] of frame.gone) {
    mesh[part].delete(key);
    changed.add(part);
  }
  for (const entry of frame.about ?? []) Object.assign(mesh.about, entry);
  if (frame.about) changed.add("about");
  for (const part of ["pipeline", "ledger"]) {
    if (!frame[part]) continue;
    mesh[part] = frame[part][0];
    changed.add(part);
  }
  return changed;
}

/** Name, site and region of a sensor, for people. `short`: its name beside that of the site, which often begins it. */
export function placeOf(sensorId) {
  const sensor = mesh.sensors.get(sensorId);
  const known = mesh.sites.get(sensor?.site_id);
  const name = sensor?.name || sensorId;
  const site = known?.name || sensor?.site_id || "";
  const rest = site && name.startsWith(site) ? name.slice(site.length).match(/^[\s,:./-]+(.+)/)?.[1] : "";
  return { name, short: rest || name, site, region: known?.region || sensor?.region || "" };
}

/** Site and sensor in one line. */
export function fullName(sensorId) {
  const { short, site } = placeOf(sensorId);
  return site ? `${site}, ${short}` : short;
}
