// The table of sensors, by region and site, with their newest values and flags.

import { mesh, placeOf } from "./mesh.js";
import { notePainted } from "./painted.js";
import { FLAG, allParameters, count, flagName, make, makeFlag, shapeOf, valueText, worst, write, writeTime } from "./words.js";

const MOST_ROWS = 300;
const FLAGGED = [FLAG.suspect, FLAG.fail, FLAG.missing];
const byId = (id) => document.getElementById(id);
const collator = new Intl.Collator(undefined, { numeric: true });

let rows = new Map(); // sensor_id -> {row, cells, flag, time, shown}
let columns = []; // parameters that some sensor of the page measures
let chosen = "";
let focused = "";
let choose = () => {};
let laterArrange = 0;

export function startSites(onChoose, filter) {
  choose = onChoose;
  byId("filter").value = filter;
  let due = 0;
  const soon = () => { cancelAnimationFrame(due); due = requestAnimationFrame(arrange); };
  byId("filter").addEventListener("input", soon);
  byId("only").addEventListener("change", soon);
  byId("table").addEventListener("keydown", onKey);
  byId("table").addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-sensor]");
    if (row) pick(row);
  });
}

/** Shows the legend of flags: shapes and words. */
export function writeLegend() {
  byId("legend").replaceChildren("QARTOD flags: ", ...Object.values(FLAG).map((flag) => makeFlag(flag)));
}

/** Marks the chosen sensor's row. */
export function markChosen(sensorId) {
  rows.get(chosen)?.row.setAttribute("aria-selected", "false");
  chosen = sensorId;
  rows.get(chosen)?.row.setAttribute("aria-selected", "true");
}

/** Scrolls the table, and nothing else, to the chosen sensor's row. */
export function showChosen() {
  const row = rows.get(chosen)?.row;
  if (!row) return;
  const around = byId("table").parentElement;
  const [inside, outside] = [row.getBoundingClientRect(), around.getBoundingClientRect()];
  const head = byId("table").tHead.offsetHeight;
  if (inside.top < outside.top + head || inside.bottom > outside.bottom) around.scrollTop += inside.top - outside.top - head - 60;
}

/** The first sensor that is shown, or "". */
export const firstShown = () => rows.keys().next().value ?? "";

/** Builds the table anew: for changed sensors, sites or filter. */
export function arrange() {
  clearTimeout(laterArrange);
  laterArrange = 0;
  columns = usedParameters();
  byId("heads").replaceChildren(...headCells());
  const wanted = filtered();
  const shown = wanted.slice(0, MOST_ROWS);
  const bodies = [];
  rows = new Map();
  let body = null;
  let region = null;
  let site = null;
  for (const one of shown) {
    if (one.region !== region) bodies.push(groupHead("region", one.region || "region not known yet", ""));
    if (one.region !== region || one.siteId !== site) {
      const kind = mesh.sites.get(one.siteId)?.source_type;
      bodies.push(groupHead("site", one.site || "no site", [one.site !== one.siteId && one.siteId, kind].filter(Boolean).join(", ")));
      body = make("tbody");
      bodies.push(body);
    }
    ({ region, siteId: site } = one);
    body.append(sensorRow(one));
  }
  const hadFocus = byId("table").contains(document.activeElement);
  for (const old of [...byId("table").tBodies]) old.remove();
  byId("table").append(...bodies);
  if (!rows.has(focused)) focused = rows.has(chosen) ? chosen : firstShown();
  rows.get(focused)?.row.setAttribute("tabindex", "0");
  if (hadFocus) rows.get(focused)?.row.focus({ preventScroll: true });
  for (const sensorId of rows.keys()) refresh(sensorId);
  sayHowMany(wanted.length, shown.length);
}

/** Writes new readings into the rows that are shown, and notes when they were painted. */
export function showReadings(readings, receivedMs, note) {
  if (readings.some((reading) => newColumn(reading))) return arrange();
  if (byId("only").value) laterArrange ||= setTimeout(arrange, 1000); // which rows belong here may have changed
  const written = readings.filter((reading) => refresh(reading[0]));
  if (note && written.length) notePainted(written, receivedMs);
}

function newColumn([, , values]) {
  return values.some((value, index) => value != null && !columns.some((column) => column.number === index + 1));
}

function usedParameters() {
  const used = new Set();
  for (const sensor of mesh.sensors.values()) sensor.parameters.forEach((number) => used.add(number));
  for (const [, , values] of mesh.readings.values()) values.forEach((value, index) => value != null && used.add(index + 1));
  return allParameters().filter((parameter) => used.has(parameter.number));
}

function filtered() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const flagged = byId("only").value === "flagged";
  const found = [];
  for (const sensor of mesh.sensors.values()) {
    const place = placeOf(sensor.sensor_id);
    const text = `${place.name} ${sensor.sensor_id} ${place.site} ${sensor.site_id} ${place.region}`.toLowerCase();
    if (!words.every((word) => text.includes(word))) continue;
    if (flagged && !FLAGGED.includes(worstOf(sensor.sensor_id))) continue;
    found.push({ sensorId: sensor.sensor_id, siteId: sensor.site_id, state: sensor.state, ...place });
  }
  const known = (one) => (one.region ? 0 : 1);
  return found.sort((left, right) =>
    known(left) - known(right) || collator.compare(left.region, right.region) || (left.siteId ? 0 : 1) - (right.siteId ? 0 : 1)
    || collator.compare(left.site, right.site) || collator.compare(left.siteId, right.siteId)
    || collator.compare(left.sensorId, right.sensorId));
}

function headCells() {
  const cell = (text, unit, number) => {
    const head = make("th", number ? "number" : "", text);
    head.scope = "col";
    if (unit) head.append(make("span", "unit", unit));
    return head;
  };
  return [
    cell("sensor"), cell("flag"), ...columns.map(({ label, unit }) => cell(label, unit, true)), cell("measured", "", true),
  ];
}

function groupHead(kind, name, more) {
  const body = make("tbody", kind);
  const head = make("th", "", name);
  head.scope = "rowgroup";
  head.colSpan = columns.length + 3;
  if (more) head.append(make("span", "more", more));
  body.insertRow().append(head);
  return body;
}

function sensorRow({ sensorId, short, state }) {
  const row = make("tr");
  row.dataset.sensor = sensorId;
  row.setAttribute("tabindex", "-1");
  row.setAttribute("aria-selected", String(sensorId === chosen));
  const head = make("th", "", short);
  head.scope = "row";
  head.title = `sensor ${sensorId}`;
  if (state !== "in service") head.append(make("span", "more", state));
  const flag = make("td", "worst");
  const cells = columns.map(({ label, unit }) => {
    const cell = make("td", "number");
    cell.dataset.label = label;
    cell.dataset.unit = unit;
    return cell;
  });
  const time = make("time");
  const last = make("td", "number");
  last.append(time);
  row.append(head, flag, ...cells, last);
  rows.set(sensorId, { row, cells, flag, time, shown: "" });
  return row;
}

/** Whether the sensor has a row, which now shows its newest reading. */
function refresh(sensorId) {
  const shown = rows.get(sensorId);
  const reading = mesh.readings.get(sensorId);
  if (!shown || !reading) return false;
  const [, measuredUs, values, flags] = reading;
  const mine = mesh.sensors.get(sensorId)?.parameters ?? [];
  columns.forEach(({ number }, index) => {
    writeValue(shown.cells[index], values[number - 1], flags[number - 1], number, mine.includes(number));
  });
  const flag = worstOf(sensorId);
  if (shown.shown !== flag) shown.flag.replaceChildren(makeFlag(flag));
  shown.shown = flag;
  writeTime(shown.time, measuredUs);
  return true;
}

function writeValue(cell, value, flag, number, measured) {
  const shape = value == null ? (measured ? FLAG.missing : "") : flag;
  if (cell.dataset.flag !== shape) {
    cell.dataset.flag = shape;
    const marked = shape && shape !== FLAG.good;
    cell.replaceChildren(...(marked ? [makeFlag(shape, true)] : []), make("span", "value"));
    cell.className = `number ${shape ? shapeOf(shape) : "none"}`;
    cell.title = marked ? flagName(shape) : "";
  }
  write(cell.lastChild, valueText(value, number));
}

/** Over what the sensor measures: what it has no probe for is not missing. */
function worstOf(sensorId) {
  const [, , values, flags] = mesh.readings.get(sensorId) ?? [, , [], ""];
  const mine = mesh.sensors.get(sensorId)?.parameters ?? [];
  return worst([...flags].filter((_, index) => values[index] != null || mine.includes(index + 1)).join(""));
}

function sayHowMany(wanted, shown) {
  const { most_sensors: most, complete } = mesh.about;
  const all = mesh.sensors.size;
  byId("sensors-count").textContent = wanted === all ? count(all) : `${count(wanted)} of ${count(all)}`;
  byId("sensors-none").hidden = shown > 0;
  if (all) byId("sensors-none").textContent = "No sensor is like that: change the filter.";
  else if (complete) byId("sensors-none").textContent = "No sensor has sent a reading yet.";
  const lines = [];
  if (shown < wanted) lines.push(`${count(wanted - shown)} more are not shown: filter by name, id, site or region.`);
  if (complete === false) lines.push(`This page has the first ${count(most)} sensors; wq sensors ls lists all.`);
  byId("sensors-more").hidden = !lines.length;
  byId("sensors-more").textContent = lines.join(" ");
}

function pick(row) {
  focusRow(row);
  choose(row.dataset.sensor);
}

function focusRow(row) {
  rows.get(focused)?.row.setAttribute("tabindex", "-1");
  focused = row.dataset.sensor;
  row.setAttribute("tabindex", "0");
  row.focus();
}

function onKey(event) {
  const row = event.target.closest("tr[data-sensor]");
  if (!row) return;
  const order = [...rows.values()].map((shown) => shown.row);
  const at = order.indexOf(row);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: order.length - 1, PageDown: at + 10, PageUp: at - 10 }[event.key];
  if (to !== undefined) focusRow(order[Math.max(0, Math.min(order.length - 1, to))]);
  else if (event.key === "Enter" || event.key === " ") pick(row);
  else return;
  event.preventDefault();
}
