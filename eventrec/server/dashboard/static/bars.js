// A list of names with numbers, each with a bar as long as its share.

import { el, keyed, say } from "./dom.js";

/** Make `list` show `items`: each has `name`, `value` and `said`. */
export function showBars(list, items, kind = "") {
  const largest = Math.max(1e-9, ...items.map((item) => item.value));
  keyed(
    list,
    items,
    (item) => item.name,
    (item) => make(item, kind),
    (node, item) => update(node, item, largest),
  );
}

function make(item, kind) {
  const bar = el("rect", { class: "bar-fill", height: 6, rx: 3, width: 0 });
  return el(
    "li",
    { class: `bar ${kind}` },
    el("span", { class: "bar-name", title: item.name }, item.name),
    el("span", { class: "bar-number" }),
    el("svg", { "aria-hidden": "true" }, el("rect", { class: "bar-track", height: 6, rx: 3, width: "100%" }), bar),
  );
}

function update(node, item, largest) {
  say(node.querySelector(".bar-number"), item.said);
  node.querySelector(".bar-fill").setAttribute("width", `${((item.value / largest) * 100).toFixed(1)}%`);
}
