// A relay: its stages and what they hold, and of each part on each shard how far it is, under which lease, and where.

import { $, el, keyed, say, state } from "./dom.js";
import { count, counted, number, span } from "./format.js";

const LIVE = "live:";
const MAX_COUNTS = 8;
const NUMBERS = [
  ["Processed", (stage) => count(stage.processed)],
  ["Pending", (stage) => count(stage.pending)],
  ["Keeps", (stage) => (stage.keys === null ? "–" : count(stage.keys))],
  ["Open sessions", (stage) => (stage.open === null ? "–" : count(stage.open))],
  ["Live visitors", (stage) => (stage.live === null ? "–" : count(stage.live))],
];

const isOurs = (part) => part.since !== null;
const sum = (parts, of) => parts.reduce((all, part) => all + of(part), 0);

/** Show the relay of `status`, if it is one; `resume` is given the name of a subscription, and what to call it. */
export function showRelay(status, resume) {
  const parts = status.relay ?? [];
  $("relay").hidden = $("relay-link").hidden = parts.length === 0;
  state("relay", "");
  if (parts.length === 0) return;
  const first = Object.keys(status.subscriptions)[0];
  // A subscription that goes on takes the stages along: on them all depends.
  const ask = (part) => resume(part.kind === "stage" ? first : part.name, part.name);
  keyed($("relay-stages"), stagesOf(parts), (stage) => stage.name, makeStage, updateStage);
  keyed(
    $("relay-parts"),
    parts,
    (part) => `${part.name} ${part.shard}`,
    (part) => makePart(part, ask),
    updatePart,
  );
  say($("relay-note"), note(parts));
  say($("relay-phases"), phases(status.phases ?? {}));
}

/** A relay's parts as numbers for the tiles: what came from the bus, and what waits on it; null: it is no relay. */
export function throughput(status) {
  const parts = status.relay ?? [];
  if (parts.length === 0) return null;
  const stages = parts.filter((part) => part.kind === "stage");
  const first = stages.filter((part) => part.name === stages[0].name);
  return { taken: stages.length ? sum(first, (part) => part.processed) : null, pending: sum(stages, (part) => part.pending) };
}

/** Each stage, over all shards that this relay serves. */
function stagesOf(parts) {
  const names = [...new Set(parts.filter((part) => part.kind === "stage").map((part) => part.name))];
  return names.map((name) => {
    const all = parts.filter((part) => part.name === name);
    const ours = all.filter(isOurs);
    const counts = new Map();
    for (const part of all) for (const [word, n] of Object.entries(part.counts)) counts.set(word, (counts.get(word) ?? 0) + n);
    const indexes = ours.flatMap((part) => Object.entries(part.seen).filter(([index]) => index.startsWith(LIVE)));
    return {
      name,
      state: wellness(all, ours),
      said: all.some((part) => part.held) ? "waits for an operator" : served(all, ours),
      processed: sum(all, (part) => part.processed),
      pending: sum(ours, (part) => part.pending),
      keys: ours.some((part) => part.keys !== null) ? sum(ours, (part) => part.keys ?? 0) : null,
      kept: all[0].kept,
      open: ours.some((part) => part.tallies?.open_sessions !== undefined) ? sum(ours, (part) => part.tallies?.open_sessions ?? 0) : null,
      live: indexes.length ? sum(indexes, ([, n]) => n) : null,
      projects: new Set(indexes.map(([index]) => index)).size,
      counts: [...counts].filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]),
    };
  });
}

function wellness(all, ours) {
  if (all.some((part) => part.held)) return "bad";
  if (all.some((part) => !part.healthy)) return "warn";
  return ours.length === all.length ? "good" : "";
}

function served(all, ours) {
  if (ours.length === 0 && all.every((part) => part.holder)) return "another relay serves it";
  return `serves ${count(ours.length)} of ${counted(all.length, "shard")}`;
}

function makeStage(stage) {
  const numbers = NUMBERS.map(([name]) => el("div", {}, el("dt", {}, name), el("dd", {})));
  return el(
    "li",
    { class: "destination" },
    el(
      "div",
      {},
      el("h3", { class: "destination-name" }, stage.name),
      el("p", { class: "badge" }, el("span", { class: "dot", "aria-hidden": "true" }), el("span", {})),
    ),
    el("dl", { class: "numbers" }, ...numbers),
    el("p", { class: "destination-error" }),
  );
}

function updateStage(node, stage) {
  const badge = node.querySelector(".badge");
  badge.dataset.state = stage.state;
  say(badge.lastChild, stage.said);
  node.querySelectorAll("dd").forEach((dd, place) => say(dd, NUMBERS[place][1](stage)));
  const words = stage.counts.slice(0, MAX_COUNTS).map(([word, n]) => `${word.replaceAll("_", " ")} ${count(n)}`);
  const kept = stage.keys === null ? "" : `keeps ${stage.kept}`;
  const live = stage.projects > 1 ? `visitors of ${counted(stage.projects, "project")}` : "";
  say(node.querySelector(".destination-error"), [kept, live, ...words].filter(Boolean).join(" · "));
}

function makePart(part, ask) {
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, part.name),
    el(
      "td",
      {},
      el("span", { class: "badge" }, el("span", { class: "dot", "aria-hidden": "true" }), el("span", {})),
      el(
        "button",
        { type: "button", class: "resume", hidden: true, "aria-label": `Resume ${part.name} on ${part.shard}`, onclick: () => ask(part) },
        "Resume",
      ),
    ),
    el("td", { class: "number" }),
    el("td", {}, part.shard),
    el("td", {}),
    el("td", {}),
  );
}

function updatePart(row, part) {
  const [, pending, , lease, holder] = row.querySelectorAll("td");
  const badge = row.querySelector(".badge");
  badge.dataset.state = part.held ? "bad" : !part.healthy ? "warn" : isOurs(part) ? "good" : "";
  say(badge.lastChild, part.remark ? `${part.state} · ${part.remark}` : part.state);
  row.querySelector(".resume").hidden = !part.held;
  say(pending, isOurs(part) ? waits(part) : "–");
  say(lease, leaseOf(part));
  say(holder, isOurs(part) ? "this relay" : part.holder || "no relay yet");
}

function waits(part) {
  const oldest = part.account?.oldest_pending ?? null;
  return oldest === null || !part.pending ? count(part.pending) : `${count(part.pending)}, oldest ${span(oldest)}`;
}

function leaseOf(part) {
  const lost = part.leases_lost ? `lost ${part.leases_lost === 1 ? "once" : `${count(part.leases_lost)} times`}` : "";
  if (!isOurs(part)) return lost || "–";
  const held = `held for ${span(Math.max(0, Date.now() / 1000 - part.since))}`;
  return [held, `${span(part.lease_seconds)} left`, lost].filter(Boolean).join(", ");
}

function note(parts) {
  const ours = parts.filter(isOurs);
  const others = new Set(parts.filter((part) => !isOurs(part) && part.holder).map((part) => part.holder));
  const who = ours.length ? `${ours[0].holder} ` : "";
  const rest = others.size ? `; ${counted(others.size, "other relay")} ${others.size === 1 ? "has" : "have"} the rest, and this one takes over` : "";
  return `${who}serves ${count(ours.length)} of ${counted(parts.length, "part")}${rest}`;
}

function phases(times) {
  const said = Object.entries(times)
    .filter(([, time]) => time.times > 0)
    .map(([phase, time]) => `${phase} ${number((1_000 * time.seconds) / time.times)} ms`);
  return said.length ? `On average: ${said.join(" · ")}` : "";
}
