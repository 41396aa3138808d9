// One rollup drawn by plotly.js, which is loaded when the first one is.

import { el } from "./dom.js";
import { cell } from "./format.js";
import { colour } from "./theme.js";

const SERIES = 6;
const DASHES = ["solid", "5px,3px", "1.5px,2.5px", "7px,2px", "6px,2px,1.5px,2px", "solid"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
const STEPS = { minute: 60_000, hour: 3_600_000, day: 86_400_000, week: 604_800_000, month: 2_678_400_000 };

const PLOTLY = new URL("plotly.min.js", import.meta.url).href;

/** The one script that may be loaded by its address: the page has Trusted Types. */
const policy = globalThis.trustedTypes?.createPolicy("eventrec", { createScriptURL: () => PLOTLY });

let loading = null;

/** plotly.js; it fails where the server has none. */
export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = policy ? policy.createScriptURL("") : PLOTLY;
    script.addEventListener("load", () => resolve(globalThis.Plotly));
    script.addEventListener("error", () => {
      loading = null;
      reject(new Error("plotly.js is not there"));
    });
    document.head.append(script);
  });
  return loading;
}

/** The rows of an answer as series: one for each combination of groups, the largest ones. */
export function seriesOf(answer, measure) {
  const bucket = answer.columns.findIndex((column) => column.role === "bucket");
  const value = answer.columns.findIndex((column) => column.name === measure);
  const groups = answer.columns.flatMap((column, place) => (column.role === "group" ? [place] : []));
  const found = new Map();
  for (const row of answer.rows) {
    const name = groups.map((place) => cell(row[place], answer.columns[place])).join(", ");
    if (!found.has(name)) found.set(name, { name, x: [], y: [], weight: 0, ahead: aheadOf(String(row[bucket])) });
    const series = found.get(name);
    series.x.push(String(row[bucket]).slice(0, 19));
    series.y.push(row[value]);
    series.weight += Math.abs(row[value] ?? 0);
  }
  const all = [...found.values()].sort((a, b) => b.weight - a.weight);
  return { shown: all.slice(0, SERIES), left: Math.max(0, all.length - SERIES) };
}

/** How long a bucket is, in milliseconds, about. */
export const stepOf = (unit) => STEPS[unit] ?? STEPS.day;

/** Draw `series` into `place`, whose buckets are `step` long, from the first to the last moment of `span`. */
export async function draw(place, series, { measure, step, span, isCount }) {
  const Plotly = await plotly();
  const ink = colour("--muted");
  const line = colour("--line");
  const isBar = isCount && series.length === 1;
  const traces = series.map((each, number) => (isBar ? bars(each, step) : lines(withGaps(each, step), number)));
  const axis = { fixedrange: true, gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const layout = {
    autosize: true,
    height: 260,
    margin: { l: 48, r: 8, t: 8, b: 32 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    showlegend: false,
    hovermode: "x unified",
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--edge"), font: { color: colour("--ink") } },
    dragmode: false,
    xaxis: { ...axis, type: "date", range: range(series, step, span) },
    yaxis: { ...axis, rangemode: "tozero", tickformat: "~s" },
  };
  await Plotly.react(place, traces, layout, { displayModeBar: false, responsive: true, doubleClick: false });
  place.setAttribute("aria-label", summary(series, measure));
}

/** Give back what a chart holds. */
export function forget(place) {
  globalThis.Plotly?.purge(place);
}

/** The legend of `series`, as text beside a piece of each line. */
export function legend(series) {
  if (series.length < 2) return [];
  return series.map((each, number) =>
    el(
      "li",
      {},
      el(
        "svg",
        { "aria-hidden": "true", viewBox: "0 0 22 8" },
        el("line", { class: `series-${number + 1}`, x1: 0, x2: 22, y1: 4, y2: 4, "stroke-width": 2.5 }),
      ),
      el("span", {}, each.name),
    ),
  );
}

function bars(each, step) {
  return {
    type: "bar",
    x: each.x,
    y: each.y,
    name: plain(each.name),
    width: step * 0.82,
    offset: 0,
    marker: { color: colour("--series-1") },
  };
}

function lines(each, number) {
  return {
    type: "scatter",
    mode: each.x.length > 120 ? "lines" : "lines+markers",
    x: each.x,
    y: each.y,
    name: plain(each.name),
    line: { color: colour(`--series-${number + 1}`), width: 2, dash: DASHES[number] },
    marker: { symbol: SYMBOLS[number], size: 6 },
  };
}

/** A name that plotly reads as text: it takes some tags for its own. */
function plain(name) {
  const text = name.length > 60 ? `${name.slice(0, 60)}…` : name;
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;") || " ";
}

/** `each` with a hole where there is no bucket: a line does not bridge what it knows nothing of. */
function withGaps(each, step) {
  const x = [];
  const y = [];
  each.x.forEach((text, place) => {
    const before = each.x[place - 1];
    if (before !== undefined && wall(text) - wall(before) > 1.5 * step) {
      x.push(written(wall(before) + step));
      y.push(null);
    }
    x.push(text);
    y.push(each.y[place]);
  });
  return { ...each, x, y };
}

function range(series, step, span) {
  const moments = series.flatMap((each) => each.x).map(wall);
  const first = moments.reduce((a, b) => Math.min(a, b));
  const last = moments.reduce((a, b) => Math.max(a, b));
  if (span === null) return [written(first - step / 2), written(last + 1.5 * step)];
  // What the clock of the zone shows, for what the page knows as a moment.
  const ahead = series[0].ahead;
  return [written(Math.min(first, span[0] + ahead)), written(Math.max(last + step, span[1] + ahead))];
}

/** The clock of a bucket's zone, as if it were UTC's. */
const wall = (text) => Date.parse(`${text}Z`);
const written = (moment) => new Date(moment).toISOString().slice(0, 19);

/** How far the clock of a moment in RFC 3339 is ahead of UTC's, in milliseconds. */
const aheadOf = (text) => wall(text.slice(0, 19)) - Date.parse(text);

function summary(series, measure) {
  const values = series.flatMap((each) => each.y).filter((value) => typeof value === "number");
  if (values.length === 0) return `${measure}: nothing to draw`;
  const most = values.reduce((a, b) => Math.max(a, b));
  const least = values.reduce((a, b) => Math.min(a, b));
  return `${measure}: ${values.length} points, from ${cell(least, {})} to ${cell(most, {})}. The table beside has all of them.`;
}
