// Open alerts, and what a person does to them.

import { fullName, mesh, placeOf } from "./mesh.js";
import { count, make, parameterOf, timeText, utcText, withUnit, write, writeTime } from "./words.js";

const MOST_SHOWN = 100;
const byId = (id) => document.getElementById(id);
const ACTIONS = {
  resolve: { title: "Resolve", hint: "why it is over (needed)", needed: true },
  comment: { title: "Comment", hint: "remark", needed: true },
};
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
  byId("alerts-none").textContent = { "": "None. The water is as it should be, as far as the rules can tell.", connecting: "waiting for the services" }[problem] ?? `alerts: ${problem}`;
  const more = all.length > shown.length || mesh.about.more_alerts;
  byId("alerts-more").hidden = !more;
  byId("alerts-more").textContent = more ? `The ${count(shown.length)} most severe are shown; wq alerts ls lists all.` : "";
  document.title = `${all.length ? `(${all.length}) ` : ""}Water Quality Mesh`;
  sayNew(all, problem);
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
  for (const [name, tag] of [["head", "p"], ["where", "h3"], ["summary", "p"], ["more", "details"]]) {
    parts[name] = make(tag, name);
    card.append(parts[name]);
  }
  parts.evidence = make("ul", "evidence");
  parts.events = make("ol", "history");
  parts.more.append(make("summary", "", "Evidence and history"), parts.evidence, parts.events);
  parts.more.addEventListener("toggle", () => parts.more.open && loadHistory(id, parts));
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
  const state = make("span", `state ${alert.state.startsWith("returned") ? "returned" : alert.state}`, alert.state);
  const severity = make("span", "severity", `severity ${alert.severity}`);
  severity.title = "1 (notice) to 5 (act now)";
  const raised = make("time");
  writeTime(raised, alert.raised_us);
  parts.head.replaceChildren(severity, make("span", "kind", alert.kind), state, "since ", raised);
  write(parts.summary, alert.summary || alert.rule_id);
  parts.sensor.textContent = name;
  parts.sensor.dataset.sensor = alert.sensor_id;
  parts.sensor.dataset.parameter = alert.evidence[0]?.parameter ?? "";
  parts.sensor.title = `sensor ${alert.sensor_id}: show its chart`;
  const rest = places.filter(Boolean).join(", ");
  const place = name ? [parts.sensor, rest && `, ${rest}`] : [[alert.gateway_id && `gateway ${alert.gateway_id}`, rest].filter(Boolean).join(", ")];
  parts.where.replaceChildren(...place);
  parts.evidence.replaceChildren(...alert.evidence.map(evidenceLine), make("li", "quiet", `by ${alert.rule_id}`));
  parts.acknowledge.hidden = alert.state === "acknowledged";
  if (parts.more.open) loadHistory(alert.alert_id, parts);
}

function evidenceLine({ parameter, value, expected, score, test, per_hour: perHour }) {
  const quantity = (number) => withUnit(number, parameter) + (perHour && number != null ? " per hour" : "");
  const line = make("li", "", `${parameter ? parameterOf(parameter).label : "value"} `);
  line.append(make("strong", "", quantity(value)), expected == null ? "" : ` against ${quantity(expected)}`);
  line.append(make("span", "quiet", ` ${[test, score != null && `score ${score.toFixed(1)}`].filter(Boolean).join(", ")}`));
  return line;
}

async function loadHistory(id, parts) {
  try {
    const answer = await (await fetch(`alerts/${id}`, { signal: AbortSignal.timeout(20_000) })).json();
    parts.events.replaceChildren(...(answer.error ? [make("li", "said", answer.error.message)] : answer.history.map(eventLine)));
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
  }
  return false;
}
