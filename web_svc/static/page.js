// Puts the parts of the page together: what the stream brings goes to the part that shows it.

import { showAlerts } from "./alerts.js";
import { appendLive, chooseSensor, offerParameters, reloadChart, startChart } from "./chart.js";
import { follow } from "./live.js";
import { mesh, placeOf, take } from "./mesh.js";
import { middleDelay } from "./painted.js";
import { showLedger, showPipeline } from "./pipeline.js";
import { arrange, firstShown, markChosen, showChosen, showReadings, startSites, writeLegend } from "./sites.js";
import { forgetClock, format, hearClock, learn, make, nowMs, timeText, utcText, write } from "./words.js";

const byId = (id) => document.getElementById(id);
const address = new URLSearchParams(location.hash.slice(1));
const startedMs = Date.now();
const PATIENCE_MS = 3000;
let waiting = [];
let state = "connecting";
let due = 0;
let problems = "";

/** Makes a sensor the chart's, with the parameter where one is given. */
function choose(sensorId, parameter) {
  markChosen(sensorId);
  chooseSensor(sensorId, parameter);
}

/** The same for a person who looks elsewhere: what was chosen comes into view, its row and its chart. */
function bring(sensorId, parameter) {
  choose(sensorId, parameter);
  showChosen();
  byId("chart").scrollIntoView({ block: "nearest" });
}

/** What is chosen stays in the address, so that a reload and a bookmark show the same. */
function remember(chosen) {
  for (const [name, value] of Object.entries(chosen)) {
    if (value) address.set(name, value);
    else address.delete(name);
  }
  history.replaceState(null, "", `#${address}`);
}

function hear(frame) {
  if (frame.reset) forgetClock();
  hearClock(frame.now_us);
  waiting.push({ frame, receivedMs: Date.now() });
  if (document.hidden) return void draw(); // no frames are painted, and nothing may pile up
  due ||= requestAnimationFrame(draw);
}

function draw() {
  due = 0;
  const taken = waiting;
  waiting = [];
  const changed = new Set();
  const readings = [];
  let reset = false;
  for (const { frame } of taken) {
    take(frame).forEach((part) => changed.add(part));
    readings.push(...(frame.readings ?? []));
    reset ||= frame.reset;
  }
  if (changed.has("about")) {
    learn(mesh.about);
    writeLegend();
  }
  if (["about", "sites", "sensors"].some((part) => changed.has(part))) arrange();
  else if (readings.length) showReadings(readings, taken[0].receivedMs, !document.hidden && !reset);
  if (["alerts", "sources", "about", "sensors", "pipeline"].some((part) => changed.has(part))) showAlerts(bring);
  if (changed.has("pipeline")) showPipeline();
  if (changed.has("ledger")) showLedger();
  if (changed.has("sources") || changed.has("pipeline")) showProblems();
  chooseFirst();
  offerParameters();
  appendLive(readings);
  if (reset) reloadChart();
}

/** What the address names, else the first of the table: once the table is in its order, which regions give. */
function chooseFirst() {
  if (byId("plot").dataset.sensor || !firstShown()) return;
  const placed = [...mesh.sensors.keys()].every((sensorId) => placeOf(sensorId).region);
  if (!placed && Date.now() - startedMs < PATIENCE_MS) return;
  const asked = address.get("sensor");
  choose(mesh.sensors.has(asked) ? asked : firstShown(), Number(address.get("parameter")) || undefined);
}

function say(newState, text) {
  if (state === newState && byId("state-text").textContent === text) return;
  state = newState;
  write(byId("state-text"), text);
  document.body.dataset.state = newState;
  if (newState !== "live") showProblems();
}

/** One line for each problem, with all that have it, and one for each stage that is not well. */
function showProblems() {
  const names = new Map();
  for (const { name, problem } of mesh.sources.values()) {
    if (problem && problem !== "connecting") names.set(problem, [...(names.get(problem) ?? []), name]);
  }
  const lines = [...names].map(([problem, those]) => `${those.join(", ")}: ${problem}`);
  for (const { stage, problem } of mesh.pipeline?.stages ?? []) {
    if (problem) lines.push(`stage ${stage.replaceAll("_", " ")}: ${problem}`);
  }
  if (lines.join("\n") === problems) return;
  problems = lines.join("\n");
  byId("problems").replaceChildren(...lines.map((line) => {
    const item = make("li");
    item.append(make("span", "flag suspect"), line);
    return item;
  }));
}

function tick() {
  const ms = nowMs();
  const zone = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" }).formatToParts(ms).find(({ type }) => type === "timeZoneName");
  write(byId("clock"), `${timeText(ms * 1000)} ${zone?.value ?? ""}`);
  byId("clock").title = utcText(ms * 1000);
  const delay = middleDelay(ms - Date.now());
  const known = state === "live" && delay !== null && delay > -1 && delay < 3600;
  write(byId("delay"), known ? `${format(1).format(Math.max(0, delay))} s from measured to here` : "");
}

startSites(choose, address.get("filter") ?? "");
startChart(Number(address.get("span")) || 3600, remember);
byId("filter").addEventListener("input", () => remember({ filter: byId("filter").value }));
setInterval(tick, 1000);
follow(hear, say);
