// Elements. What the server says becomes text nodes and attributes here, never markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "rect", "line", "path"]);

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; a child that is not a node becomes text. */
export function el(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Set a text; one that is there already stays, so that nothing is read out again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const kept = new WeakMap();

/** Make the children of `parent` those of `items`: the element of a key stays, and is updated. */
export function keyed(parent, items, key, make, update) {
  const before = kept.get(parent) ?? new Map();
  const after = new Map();
  const wanted = new Set(items.map(key));
  // What goes, goes first: else all that stands behind it would be moved, and a moved element loses the focus.
  for (const [name, node] of before) if (!wanted.has(name)) node.remove();
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    if (after.has(name)) continue;
    const node = before.get(name) ?? make(item);
    update(node, item);
    after.set(name, node);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  kept.set(parent, after);
}

/** What a section says in place of its content: loading, empty, an error with a way on; "" for nothing. */
export function state(section, text, { bad = false, again = null } = {}) {
  const node = $(`${section}-state`);
  $(section).setAttribute("aria-busy", "false");
  node.hidden = text === "";
  node.classList.toggle("bad", bad);
  const said = again === null ? text : `${text} `;
  if (node.firstChild?.data === said && node.childElementCount === (again === null ? 0 : 1)) return;
  node.replaceChildren(said);
  if (again !== null) node.append(el("button", { type: "button", onclick: again }, "Try again"));
}

/** Tell a screen reader, once, of a change that a reader must know. */
export function announce(text) {
  // The same once more is a change too: with a space that is not heard.
  $("announcement").textContent = $("announcement").textContent === text ? `${text}\u00a0` : text;
}
