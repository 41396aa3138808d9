// Destinations: what each has got, how it is doing, what its last error said, and letting it go on.

import { $, el, keyed, say, state } from "./dom.js";
import { count, moment, span } from "./format.js";

const NUMBERS = [
  ["Delivered", (part) => count(part.delivered)],
  ["Pending", (part) => count(part.pending)],
  ["Lag", (part) => count(part.end - part.scanned)],
  ["Dead", (part) => count(part.dead)],
  ["Dropped", (part) => count(Object.values(part.dropped).reduce((all, each) => all + each, 0))],
];

/** Show the subscriptions of `status`, and those of earlier logs that wait; `resume` is given the name of one. */
export function showDestinations(status, reasons, resume) {
  const earlier = Object.entries(status.adopted ?? {}).flatMap(([log, parts]) =>
    Object.values(parts)
      .filter((part) => part.pending > 0 || !part.healthy)
      .map((part) => ({ ...part, log })),
  );
  const own = Object.values(status.subscriptions);
  const ill = own.filter((part) => !part.healthy).length;
  const parts = [...own, ...earlier.slice(0, 10)];
  keyed(
    $("destination-list"),
    parts,
    (part) => `${part.log ?? ""} ${part.name}`,
    (part) => make(part, resume),
    update,
  );
  const others = reasons.filter((reason) => !own.some((part) => reason.startsWith(`${part.name}: `)));
  keyed(
    $("reasons"),
    others,
    (reason) => reason,
    (reason) => el("li", {}, reason),
    () => {},
  );
  const what = ill ? `${ill} of ${own.length} ${ill === 1 ? "does" : "do"} not deliver` : "see below";
  say($("health"), reasons.length === 0 ? "all is well" : what);
  state("destinations", parts.length ? "" : "No destination is registered.");
}

/** How well a subscription does, in a word for the colour and the shape of its mark. */
export function wellness(part) {
  if (part.healthy) return "good";
  return part.held ? "bad" : "warn";
}

function make(part, resume) {
  const numbers = NUMBERS.map(([name]) => el("div", {}, el("dt", {}, name), el("dd", {})));
  return el(
    "li",
    { class: "destination" },
    el(
      "div",
      {},
      el("h3", { class: "destination-name" }, part.log ? `${part.name}, of an earlier run` : part.name),
      el("p", { class: "badge" }, el("span", { class: "dot", "aria-hidden": "true" }), el("span", {})),
    ),
    el("dl", { class: "numbers" }, ...numbers),
    el("p", { class: "destination-error" }),
    el(
      "button",
      {
        type: "button",
        class: "resume",
        hidden: true,
        "aria-label": `Resume ${part.name}`,
        onclick: () => resume(part.name),
      },
      "Resume",
    ),
  );
}

function update(node, part) {
  const badge = node.querySelector(".badge");
  badge.dataset.state = wellness(part);
  say(badge.lastChild, part.state);
  node.querySelectorAll("dd").forEach((dd, place) => say(dd, NUMBERS[place][1](part)));
  node.querySelector(".resume").hidden = !part.held;
  const error = node.querySelector(".destination-error");
  error.classList.toggle("now", !part.healthy);
  say(error, [...part.remarks, errorText(part), successText(part)].filter(Boolean).join(" · "));
}

function errorText(part) {
  if (part.last_error === null) return "";
  return part.healthy ? `last error: ${part.last_error}` : part.last_error;
}

function successText(part) {
  if (part.unanswered !== null && part.unanswered > 2) return `no answer for ${span(part.unanswered)}`;
  return part.last_success === null ? "" : `last success ${moment(part.last_success * 1000)}`;
}
