// The chart of one sensor and parameter: what is stored, then what comes, with its flags.

import { holes, sizeY, tickTimes, tickValues } from "./axis.js";
import { fullName, mesh } from "./mesh.js";
import { FLAG, allParameters, flagName, nowMs, parameterOf, timeText, valueText, withUnit, write } from "./words.js";
import uPlot from "./vendor/uPlot.esm.js";

const MOST_POINTS = 20_000;
const MOST_MARKS = 3_000;
const HEIGHT = 260;
const AGAIN_MS = 30_000; // what comes may have been incomplete, and what a gateway stored comes late: what is stored is asked for again
const COST_SHARE = 20; // asking takes at most one part in so many of the time
const LEAST_SPAN = 60; // seconds; where less is stored than was asked for, the chart shows what there is
const byId = (id) => document.getElementById(id);
const chosen = { sensor: "", parameter: 0, span: 3600 };
let series = null; // {at, value, flag} or, of buckets, {at, value, min, max, count}
let plot = null;
let asked = 0;
let remember = () => {};
let due = 0;
let againTimer = 0;

export function startChart(span, onChange) {
  remember = onChange;
  if ([...byId("span").options].some(({ value }) => Number(value) === span)) byId("span").value = span;
  chosen.span = Number(byId("span").value);
  byId("span").addEventListener("change", () => { chosen.span = Number(byId("span").value); reloadChart(); });
  byId("parameter").addEventListener("change", () => { chosen.parameter = Number(byId("parameter").value); reloadChart(); });
  new ResizeObserver(() => plot?.setSize({ width: width(), height: HEIGHT })).observe(byId("plot"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => series && draw(true));
}

/** Shows another sensor, and the parameter where one is given; else the same parameter, where the sensor has it. */
export function chooseSensor(sensorId, parameter) {
  const has = parametersOf(sensorId);
  chosen.sensor = sensorId;
  if (parameter) chosen.parameter = parameter;
  if (has.length && !has.some(({ number }) => number === chosen.parameter)) chosen.parameter = has[0].number;
  chosen.parameter ||= 1;
  byId("plot").dataset.sensor = sensorId;
  offerParameters();
  reloadChart();
}

/** Offers what the chosen sensor measures, as far as is known by now; what is shown stays. */
export function offerParameters() {
  if (!chosen.sensor) return;
  const has = parametersOf(chosen.sensor);
  if (!has.some(({ number }) => number === chosen.parameter)) has.unshift(parameterOf(chosen.parameter));
  const numbers = has.map(({ number }) => number).join();
  write(byId("chart-title"), fullName(chosen.sensor));
  if (byId("parameter").dataset.numbers === numbers && Number(byId("parameter").value) === chosen.parameter) return;
  byId("parameter").dataset.numbers = numbers;
  byId("parameter").replaceChildren(...has.map(({ number, label, unit }) => new Option(unit ? `${label}, ${unit}` : label, number, false, number === chosen.parameter)));
}

/** Asks the server for the span, and again and again while it is shown; `quiet`: what is shown stays until the answer is there.
    Only the newest question's answer is shown. */
export async function reloadChart(quiet = false) {
  if (!chosen.sensor) return;
  clearTimeout(againTimer);
  asked += 1;
  const mine = asked;
  remember({ sensor: chosen.sensor, parameter: chosen.parameter, span: chosen.span });
  if (!quiet) say("loading");
  const beganMs = Date.now();
  const told = await ask();
  if (mine !== asked) return;
  againTimer = setTimeout(askAgain, Math.max(AGAIN_MS, COST_SHARE * (Date.now() - beganMs)));
  if (told.error) {
    if (!quiet) forget(told.error.message);
    return;
  }
  const bucket = series?.bucket;
  series = read(told);
  appendLive([mesh.readings.get(chosen.sensor)].filter(Boolean));
  draw(!quiet || series.bucket !== bucket);
}

function askAgain() {
  if (document.hidden) againTimer = setTimeout(askAgain, AGAIN_MS);
  else reloadChart(true);
}

function forget(why) {
  series = null;
  plot?.destroy();
  plot = null;
  say(why);
}

/** Appends what has just come, if it is of the chosen sensor. */
export function appendLive(readings) {
  if (!series) return;
  let appended = false;
  for (const [sensor, us, values, flags] of readings) {
    const value = values[chosen.parameter - 1];
    if (sensor === chosen.sensor && value != null) appended = append(us / 1e6, value, flags[chosen.parameter - 1]) || appended;
  }
  if (appended) due ||= requestAnimationFrame(() => draw(false));
}

async function ask() {
  try {
    const question = new URLSearchParams({ sensor: chosen.sensor, parameter: chosen.parameter, span_s: chosen.span });
    const answer = await fetch(`series?${question}`, { signal: AbortSignal.timeout(20_000) });
    return await answer.json();
  } catch {
    return { error: { message: "The stored values cannot be read: the page's server does not answer." } };
  }
}

function read(told) {
  const at = told.at_us.map((us) => us / 1e6);
  if (told.bucket_s) return { bucket: told.bucket_s, at, value: told.mean, min: told.min, max: told.max, count: told.count };
  return { bucket: 0, at, value: told.value, flag: [...told.flag] };
}

function append(at, value, flag) {
  const last = series.at.length - 1;
  if (series.bucket) {
    if (flag === FLAG.fail) return false;
    const start = Math.floor(at / series.bucket) * series.bucket;
    if (last >= 0 && start < series.at[last]) return false;
    if (last < 0 || start > series.at[last]) {
      for (const [column, entry] of [["at", start], ["value", value], ["min", value], ["max", value], ["count", 1]]) series[column].push(entry);
      return trim();
    }
    series.count[last] += 1;
    series.value[last] += (value - series.value[last]) / series.count[last];
    series.min[last] = Math.min(series.min[last], value);
    series.max[last] = Math.max(series.max[last], value);
    return true;
  }
  if (last >= 0 && at <= series.at[last]) return false;
  series.at.push(at);
  series.value.push(value);
  series.flag.push(flag);
  return trim();
}

/** Takes away what the span has left behind; always true. */
function trim() {
  const first = series.at.at(-1) - chosen.span;
  let gone = Math.max(0, series.at.length - MOST_POINTS);
  while (series.at[gone] < first) gone += 1;
  if (gone > 60 || series.at.length > MOST_POINTS) {
    for (const column of ["at", "value", "flag", "min", "max", "count"]) series[column]?.splice(0, gone);
  }
  return true;
}

function draw(anew) {
  due = 0;
  if (!series) return;
  if (anew || !plot) {
    plot?.destroy();
    plot = new uPlot(options(), columnsOf(), byId("plot"));
  } else {
    plot.setData(columnsOf());
  }
  summarise();
}

/** Values flagged fail are no part of the line: they are evidence about the sensor, and are marked where they are. */
function columnsOf() {
  if (series.bucket) return [series.at, series.value, series.min, series.max];
  return [series.at, series.value.map((value, index) => (series.flag[index] === FLAG.fail ? null : value))];
}

function options() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 }, font: `12px ${style.fontFamily}` };
  const line = { stroke: color("--chart"), width: 1.5, points: { show: (_, __, first, last) => last - first < 60, size: 5 }, spanGaps: false, gaps: holes };
  const edge = { stroke: "transparent", points: { show: false } };
  return {
    width: width(), height: HEIGHT, padding: [12, 26, 0, 0], legend: { show: false }, cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { range: rangeX }, y: { range: rangeY } },
    axes: [{ ...axis, space: 70, size: 34, values: (_, splits) => tickTimes(splits, chosen.span) },
      { ...axis, size: sizeY, values: (_, splits) => tickValues(splits) }],
    series: [{}, line, ...(series.bucket ? [edge, edge] : [])],
    bands: series.bucket ? [{ series: [3, 2], fill: color("--band") }] : [],
    hooks: { draw: [(one) => mark(one, color("--suspect"), color("--fail"))], setCursor: [summarise] },
  };
}

const width = () => Math.max(200, byId("plot").clientWidth);

function rangeX(_, first, last) {
  if (first == null) return [nowMs() / 1000 - chosen.span, nowMs() / 1000];
  return [Math.min(Math.max(last - chosen.span, first), last - LEAST_SPAN), last];
}

/** At least twenty steps of the parameter high, so that noise looks like noise. */
function rangeY(_, low, high) {
  if (low == null) return [0, 1];
  const least = 20 * 10 ** -parameterOf(chosen.parameter).decimals;
  const spread = Math.max((high - low) * 1.15, least);
  return [(low + high - spread) / 2, (low + high + spread) / 2];
}

/** Triangles for suspect, crosses for fail; what is beyond the scale is marked at its edge. */
function mark(one, suspect, fail) {
  if (series?.bucket || !series) return;
  const { ctx, bbox } = one;
  const size = 4 * devicePixelRatio;
  let marks = 0;
  ctx.save();
  ctx.lineWidth = 2 * devicePixelRatio;
  for (let index = series.at.length - 1; index >= 0 && marks < MOST_MARKS; index -= 1) {
    const flag = series.flag[index];
    if (flag !== FLAG.suspect && flag !== FLAG.fail) continue;
    marks += 1;
    const x = one.valToPos(series.at[index], "x", true);
    if (x < bbox.left) break;
    const y = Math.max(bbox.top + size, Math.min(bbox.top + bbox.height - size, one.valToPos(series.value[index], "y", true)));
    ctx.beginPath();
    if (flag === FLAG.suspect) {
      ctx.fillStyle = suspect;
      ctx.moveTo(x, y - size); ctx.lineTo(x + size, y + size); ctx.lineTo(x - size, y + size);
      ctx.fill();
    } else {
      ctx.strokeStyle = fail;
      ctx.moveTo(x - size, y - size); ctx.lineTo(x + size, y + size); ctx.moveTo(x + size, y - size); ctx.lineTo(x - size, y + size);
      ctx.stroke();
    }
  }
  ctx.restore();
}

/** The line below: what is under the pointer, else the newest value and the range. */
function summarise() {
  if (!series?.at.length) return say("No value in this span.");
  const under = plot?.cursor.idx;
  const index = under ?? series.at.length - 1;
  const flag = series.bucket ? "" : `, ${flagName(series.flag[index])}`;
  const when = timeText(series.at[index] * 1e6);
  const range = series.bucket ? `, ${valueText(series.min[index], chosen.parameter)} to ${valueText(series.max[index], chosen.parameter)}` : "";
  const note = series.bucket ? ` Mean and range of each ${bucketText()}, without what failed.` : "";
  say(`${when}  ${withUnit(series.value[index], chosen.parameter)}${range}${flag}.${under == null ? ` ${overall()}${note}` : ""}`);
}

function overall() {
  const good = series.bucket ? series.min.concat(series.max) : series.value.filter((_, index) => series.flag[index] !== FLAG.fail);
  if (!good.length) return "All failed.";
  const low = good.reduce((left, right) => Math.min(left, right));
  const high = good.reduce((left, right) => Math.max(left, right));
  return `Shown: ${valueText(low, chosen.parameter)} to ${withUnit(high, chosen.parameter)}.`;
}

const bucketText = () => (series.bucket < 60 ? `${series.bucket} s` : `${Math.round(series.bucket / 60)} min`);

const say = (text) => write(byId("chart-said"), text);

function parametersOf(sensorId) {
  const named = new Set(mesh.sensors.get(sensorId)?.parameters ?? []);
  mesh.readings.get(sensorId)?.[2].forEach((value, index) => value != null && named.add(index + 1));
  return allParameters().filter(({ number }) => named.has(number));
}
