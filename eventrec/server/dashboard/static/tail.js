// The live tail: the newest events, then new ones as they arrive; and which types they are of. All of it is bounded.

import { ask, follow, Refusal, server, Unreachable } from "./api.js";
import { showBars } from "./bars.js";
import { $, el, keyed, say, state } from "./dom.js";
import { count, counted, moment, parsed, rate, span } from "./format.js";
import { MAX_TIMER, notBefore, pauseAfter } from "./polling.js";

const ROWS = 200; // shown at most
const RECENT = 1_000; // whose types are counted
const LATEST = 500; // asked for at first
const SHOWING = 250; // milliseconds between two changes of the table
const LASTING = 30_000; // milliseconds that it went well
const PAYLOAD = 4_000; // characters of a payload that are kept

export class Tail {
  #recent = []; // [type, milliseconds]
  #rows = []; // newest last
  #waiting = []; // arrived, not shown yet
  #left = 0; // arrived, and never shown
  #timer = null;
  #isPaused = false;
  #type = ""; // the only one that is followed
  #outage = ""; // why the destination cannot be read
  #ending = null;
  #notBefore = 0; // by the page's clock: what the server said
  #refused;
  #link;

  constructor({ link, refused }) {
    this.#link = link;
    this.#refused = refused;
    $("tail-choices").addEventListener("submit", (event) => event.preventDefault());
    $("tail-pause").addEventListener("click", () => this.#pause());
    $("tail-clear").addEventListener("click", () => this.#clear());
    $("tail-wrap").addEventListener("change", () => $("tail").classList.toggle("wrapped", $("tail-wrap").checked));
    $("tail-text").addEventListener("input", () => this.#showAll());
    $("tail-type").addEventListener("change", () => this.again({ insist: true }));
    document.addEventListener("visibilitychange", () => this.again());
  }

  /** Begin again, with the newest events; where the server said how long to wait, only then, or where one insists. */
  again({ insist = false } = {}) {
    if (insist) this.#notBefore = 0;
    this.#ending?.abort();
  }

  async run() {
    if (!server.reads) {
      const why = "This server reads no destination: start it with one that can be read, to see events.";
      for (const section of ["tail", "types"]) state(section, why);
      return;
    }
    for (let failures = 0; ;) {
      await this.#link.untilUp();
      if (document.hidden) await shown();
      const ending = (this.#ending = new AbortController());
      const early = this.#notBefore - performance.now();
      if (early > 0) {
        await rest(early, ending.signal);
        continue;
      }
      const started = performance.now();
      try {
        await this.#once(ending.signal);
      } catch (error) {
        if (!ending.signal.aborted) this.#fail(error);
        this.#notBefore = notBefore(error);
      }
      failures = performance.now() - started > LASTING ? 1 : failures + 1;
      if (!ending.signal.aborted) await rest(pauseAfter(failures), ending.signal);
      else failures = 0;
    }
  }

  async #once(signal) {
    this.#type = $("tail-type").value.trim();
    const types = this.#type ? { type: this.#type } : {};
    const latest = parsed(await ask("events", { ...types, limit: LATEST, order: "newest" }, { signal, asText: true }));
    this.#forget();
    for (const event of latest.events.toReversed()) this.#take(event);
    this.#left = 0; // none of these has just come
    this.#showAll();
    $("tail").setAttribute("aria-busy", "false");
    this.#note();
    await follow("events/follow", types, { lastId: latest.follow, signal, take: (message) => this.#arrived(message) });
  }

  #arrived({ name, data }) {
    const said = parsed(data);
    if (name === "message") {
      this.#take(said);
      return;
    }
    if (name === "unreadable") this.#outage = said.detail;
    if (name === "readable") this.#outage = "";
    this.#note();
  }

  #take(event) {
    const kept = {
      at: Date.parse(event.timestamp),
      type: event.type,
      payload: told(event).slice(0, PAYLOAD),
    };
    this.#recent.push([kept.type, kept.at]);
    if (this.#recent.length > 2 * RECENT) this.#recent.splice(0, this.#recent.length - RECENT);
    this.#waiting.push(kept);
    if (this.#waiting.length > 2 * ROWS) {
      this.#left += this.#waiting.length - ROWS;
      this.#waiting.splice(0, this.#waiting.length - ROWS);
    }
    // Many may come at once: the table is changed a few times a second.
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#show();
    }, SHOWING);
  }

  #show() {
    this.#showTypes();
    if (this.#isPaused) return this.#note();
    const fresh = this.#waiting.splice(0);
    this.#rows.push(...fresh);
    this.#rows.splice(0, Math.max(0, this.#rows.length - ROWS));
    const body = $("tail-rows");
    const matching = fresh.filter((row) => this.#matches(row)).slice(-ROWS);
    body.prepend(...matching.map(tableRow).toReversed());
    while (body.childElementCount > ROWS) body.lastElementChild.remove();
    this.#note();
    this.#left = 0;
    return undefined;
  }

  #showAll() {
    if (!this.#isPaused) {
      this.#rows.push(...this.#waiting.splice(0));
      this.#rows.splice(0, Math.max(0, this.#rows.length - ROWS));
    }
    $("tail-rows").replaceChildren(
      ...this.#rows
        .filter((row) => this.#matches(row))
        .map(tableRow)
        .toReversed(),
    );
    this.#showTypes();
    this.#note();
  }

  #showTypes() {
    const recent = this.#recent.slice(-RECENT);
    const numbers = new Map();
    for (const [type] of recent) numbers.set(type, (numbers.get(type) ?? 0) + 1);
    const first = recent.reduce((least, [, at]) => Math.min(least, at), Infinity);
    const last = recent.reduce((most, [, at]) => Math.max(most, at), -Infinity);
    const seconds = Math.max(1, (last - first) / 1000);
    const sorted = [...numbers].sort((a, b) => b[1] - a[1]);
    const items = sorted.slice(0, 12).map(([name, value]) => ({
      name,
      value,
      said: recent.length < 2 ? count(value) : `${rate(value / seconds)}/s`,
    }));
    const only = this.#type ? " of the tail’s type" : "";
    showBars($("type-list"), items);
    say(
      $("types-note"),
      recent.length ? `of the newest ${counted(recent.length, "event")}${only}, over ${span(seconds)}` : "\u00a0",
    );
    state("types", recent.length ? "" : `No event${only} is stored yet.`);
    const list = $("known-types");
    const known = sorted
      .map(([name]) => name)
      .slice(0, 100)
      .sort();
    keyed(
      list,
      known,
      (name) => name,
      (name) => el("option", { value: name }),
      () => {},
    );
  }

  #note() {
    const body = $("tail-rows");
    const waits = this.#isPaused ? `paused, ${counted(this.#waiting.length + this.#left, "new event")}` : "";
    const left = !this.#isPaused && this.#left ? `${counted(this.#left, "event")} came too fast to be shown` : "";
    say($("tail-note"), this.#outage || waits || left || "newest first");
    state("tail", body.childElementCount ? "" : this.#none());
  }

  /** Why there is no row. */
  #none() {
    if (this.#rows.length) return "No event of these matches.";
    if (this.#recent.length) return "Nothing has arrived since.";
    return this.#type
      ? "No event of this type is stored yet. New ones appear here as they arrive."
      : "No event is stored yet. New ones appear here as they arrive.";
  }

  #pause() {
    this.#isPaused = !this.#isPaused;
    $("tail-pause").setAttribute("aria-pressed", String(this.#isPaused));
    if (!this.#isPaused) this.#show();
    this.#note();
  }

  #clear() {
    this.#rows = [];
    this.#waiting = [];
    this.#left = 0;
    $("tail-rows").replaceChildren();
    this.#note();
  }

  #forget() {
    this.#rows = [];
    this.#waiting = [];
    this.#recent = [];
    this.#left = 0;
    this.#outage = "";
  }

  #matches(row) {
    const text = $("tail-text").value.trim().toLowerCase();
    return text === "" || row.payload.toLowerCase().includes(text) || row.type.toLowerCase().includes(text);
  }

  #fail(error) {
    if (error instanceof Refusal && (error.status === 401 || error.status === 403)) this.#refused(error);
    if (error instanceof Unreachable) return;
    if (this.#rows.length === 0) {
      state("tail", error.message, { bad: true });
      state("types", error.message, { bad: true });
    } else say($("tail-note"), error.message);
  }
}

/** What an event says, in one line: its columns stand before what its payload has beside them. */
function told({ payload, columns }) {
  const isObject = typeof payload === "object" && payload !== null && !Array.isArray(payload);
  if (columns === undefined) return JSON.stringify(payload);
  return isObject
    ? JSON.stringify({ ...columns, ...payload })
    : `${JSON.stringify(payload)} ${JSON.stringify(columns)}`;
}

function tableRow(row) {
  return el("tr", {}, el("td", {}, moment(row.at)), el("td", { title: row.type }, row.type), el("td", {}, row.payload));
}

const shown = () =>
  new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
  });

const rest = (milliseconds, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, Math.min(milliseconds, MAX_TIMER));
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
