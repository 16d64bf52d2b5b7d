// Open alerts, and what a person does to them.

import { evidenceLine } from "./evidence.js";
import { fullName, mesh, placeOf } from "./mesh.js";
import { count, make, timeText, utcText, write, writeTime } from "./words.js";

const MOST_SHOWN = 100;
const byId = (id) => document.getElementById(id);
const ACTIONS = {
  resolve: { title: "Resolve", hint: "why it is over (needed)", needed: true },
  comment: { title: "Comment", hint: "remark", needed: true },
};
const KINDS = {
  contamination: "contamination suspected", limit: "limit broken", silence: "silent", forecast: "limit will be broken", maintenance: "maintenance needed",
};
const STATES = {
  unacknowledged: "nobody has said yet that they have seen it",
  "returned unacknowledged": "its condition is over, and nobody has said that they have seen it: acknowledging closes it",
};
const ON_THE_WAY = ["accept", "screen", "publish", "raise_alert"]; // to an alert
const cards = new Map(); // alert_id -> {card, shown}
let known = null;

/** Brings the list up to date; `choose(sensorId, parameter)` shows a sensor's chart. */
export function showAlerts(choose) {
  const problem = mesh.sources.get("alerts")?.problem ?? "connecting";
  const all = [...mesh.alerts.values()].sort(bySeverityThenNewest);
  const shown = all.slice(0, MOST_SHOWN);
  const wanted = new Set(shown.map(({ alert_id: id }) => id));
  for (const [id, { card }] of cards) {
    if (wanted.has(id)) continue;
    card.remove();
    cards.delete(id);
  }
  shown.forEach((alert, index) => place(alert, index, choose));
  byId("alerts-count").textContent = all.length ? count(all.length) : "";
  byId("alerts-none").hidden = all.length > 0;
  write(byId("alerts-none"), { "": none(), connecting: "waiting for the services" }[problem] ?? `alerts: ${problem}`);
  const more = all.length > shown.length || mesh.about.more_alerts;
  byId("alerts-more").hidden = !more;
  byId("alerts-more").textContent = more ? `The ${count(shown.length)} most severe are shown; wq alerts ls lists all.` : "";
  document.title = `${all.length ? `(${all.length}) ` : ""}Water Quality Mesh`;
  sayNew(all, problem);
}

/** Calm only where there is reason to be. */
function none() {
  const unwell = (mesh.pipeline?.stages ?? []).filter(({ stage, problem }) => problem && ON_THE_WAY.includes(stage)).map(({ stage }) => stage.replaceAll("_", " "));
  if (unwell.length) return `None so far, but not all is looked at now: ${unwell.join(", ")} not well.`;
  return mesh.readings.size ? "None. The water is as it should be, as far as the rules can tell." : "None: no sensor has sent a reading yet.";
}

const bySeverityThenNewest = (left, right) => right.severity - left.severity || right.raised_us - left.raised_us || left.alert_id.localeCompare(right.alert_id);

function sayNew(all, problem) {
  if (problem) return;
  const fresh = known ? all.filter(({ alert_id: id }) => !known.has(id)) : [];
  known = new Set(all.map(({ alert_id: id }) => id));
  if (fresh.length) byId("alerts-said").textContent = `New alert: ${fresh[0].summary || fresh[0].kind}`;
}

function place(alert, index, choose) {
  const id = alert.alert_id;
  if (!cards.has(id)) cards.set(id, makeCard(id, choose));
  const entry = cards.get(id);
  const { site, region } = placeOf(alert.sensor_id);
  const name = alert.sensor_id ? fullName(alert.sensor_id) : "";
  const shown = JSON.stringify([alert, name, region]);
  if (entry.shown !== shown) fill(entry, alert, name, [site ? "" : alert.site_id, region || alert.region]);
  entry.shown = shown;
  const list = byId("alerts-list");
  if (list.children[index] !== entry.card) list.insertBefore(entry.card, list.children[index] ?? null);
}

function makeCard(id, choose) {
  const card = make("li", "alert");
  const parts = {};
  for (const [name, tag] of [["head", "p"], ["where", "h3"], ["evidence", "ul"], ["summary", "p"], ["who", "p"], ["more", "details"]]) {
    parts[name] = make(tag, name);
    card.append(parts[name]);
  }
  parts.story = make("p");
  parts.events = make("ol", "history");
  parts.more.append(make("summary", "", "History"), parts.story, parts.events);
  parts.more.addEventListener("toggle", () => parts.more.open && loadHistory(id, card, parts));
  const buttons = make("p", "buttons");
  const button = (title, act) => {
    const one = make("button", "", title);
    one.type = "button";
    one.addEventListener("click", act);
    buttons.append(one);
    return one;
  };
  parts.said = make("p", "said");
  parts.said.setAttribute("role", "status");
  parts.acknowledge = button("Acknowledge", () => send(id, "acknowledge", "", card, parts.said));
  parts.form = makeForm(id, card, parts.said);
  for (const action of Object.keys(ACTIONS)) button(`${ACTIONS[action].title}…`, () => parts.form.open(action));
  parts.sensor = make("button", "link");
  parts.sensor.type = "button";
  parts.sensor.addEventListener("click", () => choose(parts.sensor.dataset.sensor, Number(parts.sensor.dataset.parameter) || undefined));
  card.insertBefore(buttons, parts.more);
  card.insertBefore(parts.form.element, parts.more);
  card.insertBefore(parts.said, parts.more);
  return { card, parts, shown: "" };
}

function makeForm(id, card, said) {
  const element = make("form");
  const label = make("label");
  const input = make("input");
  const submit = make("button", "strong");
  const cancel = make("button", "", "Cancel");
  let action = "";
  input.maxLength = 2000;
  cancel.type = "button";
  element.hidden = true;
  element.append(label, submit, cancel);
  const close = () => { element.hidden = true; input.value = ""; };
  cancel.addEventListener("click", close);
  element.addEventListener("keydown", (event) => event.key === "Escape" && close());
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await send(id, action, input.value.trim(), card, said)) close();
  });
  const open = (chosen) => {
    action = chosen;
    label.replaceChildren(`${ACTIONS[action].title}: `, input);
    input.placeholder = ACTIONS[action].hint;
    input.required = ACTIONS[action].needed;
    submit.textContent = ACTIONS[action].title;
    element.hidden = false;
    input.focus();
  };
  return { element, open };
}

function fill({ card, parts }, alert, name, places) {
  card.dataset.severity = alert.severity;
  const state = make("span", `state ${alert.state.split(" ")[0]}`, alert.state);
  state.title = STATES[alert.state] ?? "";
  const severity = make("span", "severity", `severity ${alert.severity}`);
  severity.title = "1 (notice) to 5 (act now)";
  const likely = ["", "unknown"].includes(alert.contaminant) ? "" : `, likely ${alert.contaminant}`;
  parts.head.replaceChildren(severity, make("span", "kind", (KINDS[alert.kind] ?? alert.kind) + likely), state);
  parts.sensor.textContent = name;
  parts.sensor.dataset.sensor = alert.sensor_id;
  parts.sensor.dataset.parameter = alert.evidence[0]?.parameter ?? "";
  parts.sensor.title = `sensor ${alert.sensor_id}: show its chart`;
  const rest = places.filter(Boolean).join(", ");
  const place = name ? [parts.sensor, rest && `, ${rest}`] : [[alert.gateway_id && `gateway ${alert.gateway_id}`, rest].filter(Boolean).join(", ")];
  parts.where.replaceChildren(...place, sinceWhen(alert));
  parts.evidence.replaceChildren(...alert.evidence.map(evidenceLine));
  write(parts.summary, alert.evidence.length ? "" : alert.summary || alert.rule_id);
  write(parts.story, [alert.evidence.length && alert.summary, `Found by ${alert.rule_id}.`].filter(Boolean).join(". "));
  card.dataset.state = alert.state;
  if (alert.state === "acknowledged" && document.activeElement === parts.acknowledge) parts.acknowledge.nextSibling.focus();
  parts.acknowledge.hidden = alert.state === "acknowledged";
  if (alert.state !== "acknowledged") write(parts.who, "");
  if (parts.more.open || alert.state === "acknowledged") loadHistory(alert.alert_id, card, parts);
}

function sinceWhen({ raised_us: raised, cleared_us: cleared }) {
  const since = make("span", "quiet", " since ");
  for (const us of cleared == null ? [raised] : [raised, cleared]) {
    const time = make("time");
    writeTime(time, us);
    since.append(...(since.children.length ? [" until ", time] : [time]));
  }
  return since;
}

/** Fills the history, and says who acknowledged it last. */
async function loadHistory(id, card, parts) {
  try {
    const answer = await (await fetch(`alerts/${id}`, { signal: AbortSignal.timeout(20_000) })).json();
    if (answer.error) return void parts.events.replaceChildren(make("li", "said", answer.error.message));
    parts.events.replaceChildren(...answer.history.map(eventLine));
    const seen = card.dataset.state === "acknowledged" && answer.history.findLast(({ from, to }) => from !== to && to === "acknowledged");
    write(parts.who, seen ? `acknowledged by ${seen.actor} at ${timeText(seen.at_us)}${seen.comment && `: ${seen.comment}`}` : "");
  } catch {
    parts.events.replaceChildren(make("li", "said", "The page's server does not answer."));
  }
}

function eventLine({ at_us: us, actor, from, to, comment }) {
  const line = make("li", "", `${timeText(us)} ${actor}: ${from === to ? "comment" : to}${comment ? `, ${comment}` : ""}`);
  line.title = utcText(us);
  return line;
}

/** Whether the service did it; what it answers comes over the stream. */
async function send(id, action, comment, card, said) {
  const buttons = [...card.querySelectorAll("button")];
  const focused = document.activeElement;
  buttons.forEach((button) => { button.disabled = true; });
  write(said, "");
  try {
    const body = JSON.stringify({ comment });
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(`alerts/${id}/${action}`, { method: "POST", headers, body, signal: AbortSignal.timeout(20_000) });
    if (answer.ok) return true;
    write(said, (await answer.json()).error.message);
  } catch {
    write(said, "The page's server does not answer: nothing was done, as far as is known. Try again.");
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
    if (document.activeElement === document.body && buttons.includes(focused)) (focused.hidden ? focused.nextSibling : focused).focus();
  }
  return false;
}
