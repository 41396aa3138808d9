// The tiles: how many events a second, how far delivery is behind, what is dead, what is lost.

import { $, say } from "./dom.js";
import { count, counted, rate, span } from "./format.js";
import { throughput } from "./relay.js";

const SAMPLES = 150; // five minutes, while the page is looked at
const WINDOW = 10_000; // milliseconds over which "now" is taken
const WIDTH = 300;
const HEIGHT = 72;

const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);

/** What a status says in all: of this run of the recorder, and of the earlier logs that it delivers. */
export function totals(status) {
  const earlier = Object.values(status.adopted ?? {}).flatMap((log) => Object.values(log));
  const own = Object.values(status.subscriptions);
  const parts = [...own, ...earlier];
  const relay = throughput(status);
  const delivered = sum(own.map((part) => part.delivered));
  const ages = parts.map((part) => part.oldest_pending).filter((age) => age !== null);
  return {
    offered: relay === null ? status.offered : (relay.taken ?? delivered),
    delivered,
    lag: Math.max(0, relay?.pending ?? 0, ...parts.map((part) => part.end - part.scanned)),
    pending: sum(parts.map((part) => part.pending)) + status.in_intake + (relay?.pending ?? 0),
    oldest: ages.length ? Math.max(...ages) : null,
    dead: sum(parts.map((part) => part.dead)),
    lost: losses(status).reduce((total, each) => total + each.count, 0),
  };
}

/** What was refused, dropped and forfeited, by reason; the most first. */
export function losses(status) {
  const found = new Map();
  const add = (name, number) => number > 0 && found.set(name, (found.get(name) ?? 0) + number);
  for (const [reason, number] of Object.entries(status.refused)) add(`refused: ${reason}`, number);
  for (const log of [status.subscriptions, ...Object.values(status.adopted ?? {})]) {
    for (const [name, part] of Object.entries(log)) {
      for (const [reason, number] of Object.entries(part.dropped)) add(`dropped for ${name}: ${reason}`, number);
    }
  }
  for (const [name, number] of Object.entries(status.forfeited ?? {})) add(`lost to the disk bound: ${name}`, number);
  return [...found].map(([name, number]) => ({ name, count: number })).sort((a, b) => b.count - a.count);
}

/** The rates of two counters over time, out of samples of them; bounded. */
export class Rates {
  #samples = [];

  add(at, taken, delivered) {
    const last = this.#samples.at(-1);
    // Counters that went back are those of another process.
    if (last && (taken < last.taken || delivered < last.delivered)) this.#samples = [];
    this.#samples.push({ at, taken, delivered });
    if (this.#samples.length > SAMPLES + 1) this.#samples.shift();
  }

  /** A second, over the last moments; null before there are two samples. */
  get now() {
    const last = this.#samples.at(-1);
    const first = this.#samples.find((each) => each.at >= (last?.at ?? 0) - WINDOW);
    if (!last || first === last) return null;
    const seconds = (last.at - first.at) / 1000;
    return { taken: (last.taken - first.taken) / seconds, delivered: (last.delivered - first.delivered) / seconds };
  }

  /** Between each sample and the one before. */
  get points() {
    return this.#samples.slice(1).map((each, place) => {
      const before = this.#samples[place];
      const seconds = Math.max(0.001, (each.at - before.at) / 1000);
      return {
        at: each.at,
        taken: (each.taken - before.taken) / seconds,
        delivered: (each.delivered - before.delivered) / seconds,
      };
    });
  }
}

/** Show the tiles of `status`. */
export function showNow(status, rates) {
  const all = totals(status);
  rates.add(performance.now(), all.offered, all.delivered);
  const now = rates.now;
  say($("rate"), now === null ? "–" : rate(now.taken));
  say(
    $("rate-note"),
    now === null ? `${count(all.offered)} so far` : `${rate(now.delivered)} delivered, ${count(all.offered)} so far`,
  );
  tile("lag", count(all.lag), `${counted(all.pending, "record")} pending`);
  tile(
    "oldest",
    all.oldest === null ? "none" : span(all.oldest),
    all.oldest === null ? "nothing waits" : "since it was recorded",
    {
      warn: (all.oldest ?? 0) > 60,
    },
  );
  tile("lost", count(all.lost), all.lost ? "see the reasons below" : "nothing", { bad: all.lost > 0 });
  drawSparkline($("sparkline"), rates.points, now);
  $("now").setAttribute("aria-busy", "false");
}

/** Set one tile. */
export function tile(id, number, note, { bad = false, warn = false } = {}) {
  say($(id), number);
  say($(`${id}-note`), note);
  $(id).classList.toggle("bad", bad);
  $(id).classList.toggle("warn", warn && !bad);
}

function drawSparkline(svg, points, now) {
  const [area, taken, delivered] = svg.querySelectorAll("path");
  if (points.length === 0) return;
  const top = Math.max(1, ...points.flatMap((point) => [point.taken, point.delivered]));
  const end = points.at(-1).at;
  const span_ = Math.max(60_000, end - points[0].at);
  const place = (point, value) =>
    `${(WIDTH - ((end - point.at) / span_) * WIDTH).toFixed(1)} ${(HEIGHT - 2 - (value / top) * (HEIGHT - 6)).toFixed(1)}`;
  const line = (of) => `M${points.map((point) => place(point, point[of])).join("L")}`;
  const first = (WIDTH - ((end - points[0].at) / span_) * WIDTH).toFixed(1);
  area.setAttribute("d", `${line("taken")}L${WIDTH} ${HEIGHT}L${first} ${HEIGHT}Z`);
  taken.setAttribute("d", line("taken"));
  delivered.setAttribute("d", line("delivered"));
  svg.setAttribute(
    "aria-label",
    `Events per second over the last ${span(span_ / 1000)}: now ${rate(now?.taken ?? 0)} taken and ` +
      `${rate(now?.delivered ?? 0)} delivered, at most ${rate(top)}`,
  );
}
