// One rollup drawn by plotly.js, which is loaded when the first one is.

import { Axis, written } from "./axis.js";
import { el } from "./dom.js";
import { cell, local } from "./format.js";
import { colour } from "./theme.js";

const SERIES = 6;
const DASHES = ["solid", "5px,3px", "1.5px,2.5px", "7px,2px", "6px,2px,1.5px,2px", "solid"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
const STEPS = { minute: 60_000, hour: 3_600_000, day: 86_400_000, week: 604_800_000, month: 2_678_400_000 };
const BY_CLOCK = new Set(["minute", "hour"]);

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

/** The rows of an answer, the oldest first, as series: one for each combination of groups, the largest ones. */
export function seriesOf(answer, measure) {
  const bucket = answer.columns.findIndex((column) => column.role === "bucket");
  const value = answer.columns.findIndex((column) => column.name === measure);
  const groups = answer.columns.flatMap((column, place) => (column.role === "group" ? [place] : []));
  const found = new Map();
  for (const row of answer.rows) {
    const name = groups.map((place) => cell(row[place], answer.columns[place])).join(", ");
    if (!found.has(name)) found.set(name, { name, starts: [], y: [], weight: 0 });
    const series = found.get(name);
    series.starts.push(String(row[bucket]));
    series.y.push(row[value]);
    series.weight += Math.abs(row[value] ?? 0);
  }
  const all = [...found.values()].sort((a, b) => b.weight - a.weight);
  return { shown: all.slice(0, SERIES), left: Math.max(0, all.length - SERIES) };
}

/** How long a bucket is, in milliseconds, about. */
export const stepOf = (unit) => STEPS[unit] ?? STEPS.day;

/**
 * Draw `series` into `place`, whose buckets are of `unit`, `step` long, and written by the clock of `zone`, from the
 * first to the last moment of `span`.
 */
export async function draw(place, series, { measure, unit, step, zone, span, isCount }) {
  const Plotly = await plotly();
  const ink = colour("--muted");
  const line = colour("--line");
  const isBar = isCount && series.length === 1;
  const time = new Axis(
    series.flatMap((each) => each.starts),
    { zone, isEven: BY_CLOCK.has(unit) },
  );
  const placed = series.map((each) => ({ ...each, x: each.starts.map((text) => time.at(Date.parse(text))) }));
  const [from, to] = range(placed, step, span?.map(time.at));
  const isChanged = time.isChanged(from, to);
  const traces = placed.map((each, number) => ({
    ...(isBar ? bars(each, step, isChanged) : lines(withGaps(each, step), number)),
    ...(isChanged ? { hovertemplate: `%{customdata}: %{y}${series.length > 1 ? "" : "<extra></extra>"}` } : {}),
  }));
  const margin = { l: 48, r: 8, t: 8, b: 32 };
  const axis = { fixedrange: true, gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const layout = {
    autosize: true,
    height: 260,
    margin,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    showlegend: false,
    hovermode: "x unified",
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--edge"), font: { color: colour("--ink") } },
    dragmode: false,
    xaxis: {
      ...axis,
      type: "date",
      range: [written(from), written(to)],
      ...time.ticks(from, to, place.clientWidth - margin.l - margin.r),
      // Its own title of what is under the pointer is what the axis has there, which is not what the clock shows.
      ...(isChanged ? { unifiedhovertitle: { text: plain(measure) } } : {}),
    },
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

/** `isChanged`: of several hours of a clock that is put back, some are over sooner. */
function bars(each, step, isChanged) {
  const lengths = each.x.map((at, place) => Math.min(step, (each.x[place + 1] ?? Infinity) - at));
  return {
    type: "bar",
    ...drawn(each),
    width: isChanged ? lengths.map((length) => length * 0.82) : step * 0.82,
    offset: 0,
    marker: { color: colour("--series-1") },
  };
}

function lines(each, number) {
  return {
    type: "scatter",
    mode: each.x.length > 120 ? "lines" : "lines+markers",
    ...drawn(each),
    line: { color: colour(`--series-${number + 1}`), width: 2, dash: DASHES[number] },
    marker: { symbol: SYMBOLS[number], size: 6 },
  };
}

const drawn = (each) => ({
  x: each.x.map(written),
  y: each.y,
  customdata: each.starts.map(local),
  name: plain(each.name),
});

/** A name that plotly reads as text: it takes some tags for its own. */
function plain(name) {
  const text = name.length > 60 ? `${name.slice(0, 60)}…` : name;
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;") || " ";
}

/** `each` with a hole where there is no bucket: a line does not bridge what it knows nothing of. */
function withGaps(each, step) {
  const [starts, x, y] = [[], [], []];
  each.starts.forEach((text, place) => {
    const before = each.starts[place - 1];
    if (before !== undefined && Date.parse(text) - Date.parse(before) > 1.5 * step) {
      starts.push("");
      x.push(each.x[place - 1] + step);
      y.push(null);
    }
    starts.push(text);
    x.push(each.x[place]);
    y.push(each.y[place]);
  });
  return { ...each, starts, x, y };
}

/** From where to where the axis goes: over all that is drawn, and over `span`, where there is one. */
function range(placed, step, span) {
  const places = placed.flatMap((each) => each.x);
  const first = places.reduce((a, b) => Math.min(a, b));
  const last = places.reduce((a, b) => Math.max(a, b));
  if (!span) return [first - step / 2, last + 1.5 * step];
  return [Math.min(first, span[0]), Math.max(last + step, span[1])];
}

function summary(series, measure) {
  const values = series.flatMap((each) => each.y).filter((value) => typeof value === "number");
  if (values.length === 0) return `${measure}: nothing to draw`;
  const most = values.reduce((a, b) => Math.max(a, b));
  const least = values.reduce((a, b) => Math.min(a, b));
  return `${measure}: ${values.length} points, from ${cell(least, {})} to ${cell(most, {})}. The table beside has all of them.`;
}
