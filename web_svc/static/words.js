// How values, times and flags are written. The tables come from the server: see `learn`.

export const FLAG = { good: "1", unevaluated: "2", suspect: "3", fail: "4", missing: "9" };
const WORST_FIRST = [FLAG.fail, FLAG.suspect, FLAG.missing, FLAG.unevaluated, FLAG.good];
const SHAPES = { 1: "good", 2: "unevaluated", 3: "suspect", 4: "fail", 9: "missing" };

let parameters = [];
let flagNames = {};
const formats = new Map();
let aheadMs = null; // the server's clock before ours

export function learn(about) {
  if (about.parameters) parameters = about.parameters;
  if (about.flags) flagNames = about.flags;
}

export const allParameters = () => parameters;
export const parameterOf = (number) => parameters[number - 1] ?? { number, label: `parameter ${number}`, unit: "", decimals: 2 };
export const flagName = (flag) => flagNames[flag] ?? "unknown flag";
export const worst = (flags) => WORST_FIRST.find((flag) => flags.includes(flag)) ?? FLAG.unevaluated;

/** A count with the reader's own separators. */
export const count = (number) => format(0).format(number);

/** A value with the decimals of its parameter, without the unit; "" for none. */
export const valueText = (value, parameter) => (value == null ? "" : format(parameterOf(parameter).decimals).format(value));

/** The same with its unit. */
export function withUnit(value, parameter) {
  const { unit } = parameterOf(parameter);
  return value == null ? "no value" : valueText(value, parameter) + (unit && ` ${unit}`);
}

export function format(decimals) {
  if (!formats.has(decimals)) {
    formats.set(decimals, new Intl.NumberFormat(undefined, { minimumFractionDigits: decimals, maximumFractionDigits: decimals }));
  }
  return formats.get(decimals);
}

/** Hears the server's time; a late word says less than an early one. */
export function hearClock(nowUs) {
  aheadMs = Math.max(aheadMs ?? -Infinity, nowUs / 1000 - Date.now());
}
export const forgetClock = () => { aheadMs = null; };

/** Now by the server's clock. */
export const nowMs = () => Date.now() + (aheadMs ?? 0);

const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const dayTime = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
});

/** In the viewer's zone: the time today, else the day too. */
export function timeText(us) {
  const at = new Date(us / 1000);
  return Math.abs(nowMs() - at) < 43_200_000 ? clockTime.format(at) : dayTime.format(at);
}
export const utcText = (us) => new Date(us / 1000).toISOString().replace("T", " ").replace("Z", " UTC");

/** Fills a <time>: the viewer's zone, UTC on hover. */
export function writeTime(element, us) {
  write(element, timeText(us));
  if (element.dateTime !== undefined) element.dateTime = new Date(us / 1000).toISOString();
  element.title = utcText(us);
}

/** An element with a class and text. Everything that is shown goes through here or `write`: text, never markup. */
export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/** Sets the text only where it changes. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A flag as shape and name; `quiet`: the name is only spoken. */
export function makeFlag(flag, quiet = false) {
  const shape = make("span", `flag ${SHAPES[flag] ?? "unevaluated"}`);
  shape.append(make("span", quiet ? "spoken" : "", ` ${flagName(flag)} `));
  if (quiet) shape.title = flagName(flag);
  return shape;
}
export const shapeOf = (flag) => SHAPES[flag] ?? "unevaluated";
