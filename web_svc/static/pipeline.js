// How far behind each stage is, and whether the ledger balances.

import { mesh } from "./mesh.js";
import { count, format, make, timeText, utcText, write } from "./words.js";

const byId = (id) => document.getElementById(id);
const COUNTS = [
  ["accepted", "accepted_count"], ["stored", "stored_count"], ["duplicate", "duplicate_count"],
  ["conflicting", "conflicting_count"], ["archived", "archived_count"], ["refused", "refused_count"],
];
const lines = new Map();

export function showPipeline() {
  const { stages, readable_us: readableUs } = mesh.pipeline;
  const names = stages.map(({ stage }) => stage).join(" ");
  if (byId("stages").dataset.names !== names) {
    byId("stages").dataset.names = names;
    lines.clear();
    byId("stages").replaceChildren(...stages.map(stageRow));
  }
  for (const stage of stages) writeStage(stage);
  const readable = byId("readable");
  readable.textContent = readableUs == null ? "How much can be read is not known: a shard is away."
    : `What was acknowledged before ${timeText(readableUs)} can be read.`;
  readable.title = readableUs == null ? "" : utcText(readableUs);
}

function stageRow({ stage }) {
  const row = make("tr");
  const head = make("th", "", stage.replaceAll("_", " "));
  head.scope = "row";
  const cells = [make("td", "number"), make("td", "number"), make("td", "number"), make("td", "state")];
  row.append(head, ...cells);
  lines.set(stage, cells);
  return row;
}

function writeStage({ stage, rate_per_s: rate, backlog_count: backlog, lag_s: lag, problem }) {
  const [rateCell, backlogCell, lagCell, stateCell] = lines.get(stage);
  write(rateCell, format(rate < 100 ? 1 : 0).format(rate));
  write(backlogCell, count(backlog));
  write(lagCell, format(1).format(lag));
  if (stateCell.dataset.problem === problem) return;
  stateCell.dataset.problem = problem;
  stateCell.replaceChildren(...(problem ? [make("span", "flag fail"), problem] : [make("span", "flag good", "well")]));
}

export function showLedger() {
  const sums = mesh.ledger;
  const dead = sums.dead_at_screen_count + sums.dead_at_record_count;
  const counts = [...COUNTS];
  if (dead || sums.dead_at_archive_count) counts.push(["dead at screen", "dead_at_screen_count"], ["dead at record", "dead_at_record_count"], ["dead at archive", "dead_at_archive_count"]);
  const names = counts.map(([name]) => name).join();
  const totals = byId("totals");
  if (totals.dataset.names !== names) {
    totals.dataset.names = names;
    totals.replaceChildren(...counts.map(([name]) => {
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "number"));
      return pair;
    }));
  }
  const cells = totals.querySelectorAll("dd");
  counts.forEach(([, key], index) => write(cells[index], count(sums[key])));
  sayBalance(sums, sums.accepted_count - sums.stored_count - sums.duplicate_count - sums.conflicting_count - dead);
}

function sayBalance(sums, underWay) {
  const balance = byId("balance");
  const proven = sums.proven_us ? `balanced at ${timeText(sums.proven_us)}` : "not proven yet";
  let [shape, text] = ["unevaluated", `${count(Math.max(0, underWay))} under way; ${proven}`];
  if (sums.caught_up) [shape, text] = sums.balanced ? ["good", "balanced: every accepted reading is accounted for"] : ["fail", "NOT balanced: wq ledger shows where"];
  if (!sums.complete) [shape, text] = ["unevaluated", "sums of a part: there are too many gateways and hours to sum here"];
  if (balance.dataset.text === text) return;
  balance.dataset.text = text;
  balance.replaceChildren(make("span", `flag ${shape}`), text);
}
