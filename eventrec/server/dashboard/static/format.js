// Numbers, spans of time and moments, as a reader sees them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const precise = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DATES = new Set(["day", "week", "month"]);
const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium" });

/** A count; from a million on, short. */
export const count = (value) => (Math.abs(value) >= 1e6 ? short : whole).format(value);

/** A number of a rollup. */
export const number = (value) => precise.format(value);

/** So many a second: with a digit behind the point while it is small. */
export const rate = (value) => (value < 10 ? value.toFixed(1) : count(value));

/** "1 event", "3 events". */
export const counted = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** A span of seconds: "850 ms", "12 s", "3 min", "5 h", "2 d". */
export function span(seconds) {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${count(Math.round(seconds / 86400))} d`;
}

/** A moment, given in milliseconds since the epoch: the time of today, else with its date. */
export function moment(milliseconds) {
  const at = new Date(milliseconds);
  if (Number.isNaN(at.getTime())) return "–";
  const today = new Date().toDateString() === at.toDateString();
  return today ? clock.format(at) : `${date.format(at)}, ${clock.format(at)}`;
}

/** A moment in RFC 3339: "2026-11-29 14:00", with seconds where it has some; not of UTC, with its offset. */
export function local(text) {
  const form = /^(\d{4,}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:\.\d+)?([+-]\d\d:\d\d)?/;
  const [, day, time, seconds, offset] = form.exec(text) ?? [];
  if (day === undefined) return text;
  return `${day} ${time}${seconds === ":00" ? "" : (seconds ?? "")}${offset ?? ""}`;
}

/** What JSON says; a number that a browser would round is kept as it is written, where the browser can tell. */
export function parsed(json) {
  const keep = (_, value, context) =>
    typeof value === "number" && context && !Number.isSafeInteger(value) && String(value) !== context.source
      ? JSON.rawJSON(context.source)
      : value;
  return JSON.parse(json, JSON.rawJSON ? keep : undefined);
}

/** The value of a column of a rollup; of a bucket whose `unit` is days or more, its date. */
export function cell(value, column, unit = "") {
  if (value === null || value === undefined) return "–";
  if (column.role === "bucket" && DATES.has(unit)) return String(value).slice(0, 10);
  if (column.kind === "timestamp") return local(String(value));
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? number(value) : String(value);
}
