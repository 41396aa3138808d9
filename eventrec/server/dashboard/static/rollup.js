// One rollup as a chart with its table; measure and group are chosen here.

import { ask, Refusal } from "./api.js";
import { draw, forget, legend, seriesOf, stepOf } from "./chart.js";
import { $, announce, el, say } from "./dom.js";
import { cell, count, counted, local } from "./format.js";

const MAX_ROWS = 1_000; // asked for
const MAX_SHOWN = 200; // in the table
const FITTING = { minute: 60, hour: 48, day: 30, week: 26, month: 12 }; // buckets, where no range is chosen
const PATIENCE = 40_000; // milliseconds: longer than a server lets a question take
const UNITS = { h: 3_600_000, d: 86_400_000 };

export class Card {
  #rollup;
  #answer = null;
  #asking = null;

  /** `failed` is called with the error of what a user asked for. */
  constructor(rollup, failed) {
    this.#rollup = rollup;
    const id = `rollup-${rollup.name}`;
    const measures = rollup.measures.filter((each) => each.kind === "integer" || each.kind === "float");
    this.measure = select(
      "Measure",
      measures.map((each) => [each.name, each.name]),
    );
    this.group = select("By", [["", "all together"], ...rollup.groups.map((name) => [name, name])]);
    this.complete = el("p", { class: "complete" }, "\u00a0");
    this.chart = el("div", { class: "chart", role: "img", "aria-label": `Chart of ${rollup.name}` });
    this.says = el("p", { class: "chart-state" }, "Loading");
    this.legend = el("ul", { class: "legend" });
    this.remarks = el("ul", { class: "remarks" });
    this.head = el("tr");
    this.body = el("tbody");
    this.note = el("p", { class: "table-note" });
    this.measure.select.addEventListener("change", () => this.#show());
    this.group.select.addEventListener("change", () => this.load().catch(failed));
    const table = el("table", { "aria-labelledby": id }, el("thead", {}, this.head), this.body);
    const scroll = {
      class: "scroll table-scroll",
      role: "region",
      tabindex: 0,
      "aria-label": `Rows of ${rollup.name}`,
    };
    this.node = el(
      "article",
      { class: "rollup", "aria-labelledby": id, "aria-busy": "true" },
      el(
        "header",
        { class: "rollup-head" },
        el(
          "div",
          { class: "rollup-title" },
          el("h3", { id }, rollup.name),
          el("p", { class: "what" }, what(rollup)),
          this.complete,
        ),
        el("div", { class: "choices" }, this.measure.label, rollup.groups.length ? this.group.label : null),
      ),
      this.remarks,
      el(
        "div",
        { class: "rollup-body" },
        el("div", { class: "chart-place" }, this.chart, this.says, this.legend),
        el("div", scroll, table, this.note),
      ),
    );
  }

  /** Ask, and show the answer. */
  async load(outer = null) {
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    const signal = outer ? AbortSignal.any([asking.signal, outer]) : asking.signal;
    this.node.setAttribute("aria-busy", "true");
    try {
      this.#answer = await ask(`rollups/${encodeURIComponent(this.#rollup.name)}`, this.#query(), {
        signal,
        patience: PATIENCE,
      });
      this.#show(); // plotly.js may take its time: the next one need not wait
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal)
        this.#fail(error.message); // of this rollup alone
      else {
        if (this.#answer === null) this.#clear("No answer.");
        else say(this.complete, `${error.message}: what is shown was asked for before`);
        throw error;
      }
    } finally {
      if (this.#asking === asking) this.node.setAttribute("aria-busy", "false");
    }
  }

  redraw() {
    if (this.#answer !== null) this.#show();
  }

  close() {
    this.#asking?.abort();
    forget(this.chart);
  }

  #query() {
    const query = { limit: MAX_ROWS, newest_first: "true", group: this.group.select.value, from: this.#from() };
    if ($("range").value === "custom") query.to = $("range-to").value || null;
    if ($("zone").value.trim()) query.zone = $("zone").value.trim();
    return query;
  }

  /** Since when, as a question says it; null: since ever. */
  #from() {
    const range = $("range").value;
    if (range === "custom") return $("range-from").value || null;
    if (range === "all") return null;
    return range || `-${Math.ceil(((FITTING[this.#rollup.unit] ?? 30) * this.#step()) / UNITS.h)}h`;
  }

  /** The length of a bucket in milliseconds, about. */
  #step() {
    return stepOf(this.#rollup.unit) * (this.#rollup.every ?? 1);
  }

  /** The first and the last moment of the axis, in milliseconds; null: those of the rows. */
  #span() {
    const [, number, unit] = /^-(\d+)([hd])$/.exec(this.#from() ?? "") ?? [];
    if (number === undefined) return null;
    const now = Date.now();
    return [now - Number(number) * UNITS[unit], now];
  }

  async #show() {
    const answer = this.#answer;
    if (answer === null) return undefined;
    say(this.complete, completeness(answer));
    this.remarks.replaceChildren(...answer.remarks.map((remark) => el("li", {}, remark)));
    this.#showTable(answer);
    if (answer.rows.length === 0) return this.#clear("No event in this range.");
    if (!this.measure.select.value) return this.#clear("Nothing in it is a number: see the table.");
    const measure = this.measure.select.value;
    const oldestFirst = { ...answer, rows: answer.rows.toReversed() };
    const { shown, left } = seriesOf(oldestFirst, measure);
    const column = answer.columns.find((each) => each.name === measure);
    try {
      await draw(this.chart, shown, {
        measure,
        unit: this.#rollup.unit,
        step: this.#step(),
        zone: answer.zone,
        span: this.#span(),
        isCount: column.kind === "integer",
      });
    } catch {
      if (this.#answer !== answer) return undefined;
      return this.#clear("plotly.js did not come, so nothing is drawn: see the table.");
    }
    if (this.#answer !== answer) return undefined; // a newer one has come meanwhile, and says what is shown
    this.says.hidden = true;
    this.legend.replaceChildren(
      ...legend(shown),
      ...(left ? [el("li", {}, `and ${count(left)} smaller ones, in the table alone`)] : []),
    );
    return undefined;
  }

  #showTable(answer) {
    this.head.replaceChildren(
      ...answer.columns.map((column) =>
        el("th", { scope: "col", class: isNumber(column) ? "number" : null }, named(column, answer.zone)),
      ),
    );
    const rows = answer.rows.slice(0, MAX_SHOWN);
    // A bucket that begins with a day of the rollup's zone begins at some time of the day, or the day before, in others.
    const unit = answer.zone === this.#rollup.zone ? this.#rollup.unit : "";
    this.body.replaceChildren(
      ...rows.map((row) =>
        el(
          "tr",
          {},
          ...row.map((value, place) =>
            el(
              "td",
              { class: isNumber(answer.columns[place]) ? "number" : null },
              cell(value, answer.columns[place], unit),
            ),
          ),
        ),
      ),
    );
    const more = answer.cursor === null || answer.cursor === undefined ? "" : " of the newest; there are more";
    const cut = answer.rows.length > MAX_SHOWN ? `, ${count(MAX_SHOWN)} shown` : "";
    say(this.note, `${counted(answer.rows.length, "row")}${more}${cut}`);
  }

  #clear(why, bad = false) {
    say(this.says, why);
    this.says.classList.toggle("bad", bad);
    this.says.hidden = false;
    this.legend.replaceChildren();
  }

  #fail(why) {
    const isNews = this.says.hidden || this.says.textContent !== why;
    this.#answer = null;
    say(this.complete, "\u00a0");
    this.head.replaceChildren();
    this.body.replaceChildren();
    say(this.note, "");
    this.#clear(why, true);
    if (isNews) announce(`${this.#rollup.name}: ${why}`);
  }
}

function completeness(answer) {
  const waiting = answer.pending ? `, ${counted(answer.pending, "event")} not counted in yet` : "";
  if (answer.complete_to === null || answer.complete_to === undefined)
    return `how far it is complete is not known${waiting}`;
  const zone = answer.complete_to.endsWith("Z") ? " UTC" : "";
  return `complete to ${local(answer.complete_to)}${zone}${waiting}`;
}

/** What a column is called; of buckets, with the zone whose clock they show. */
const named = (column, zone) => (column.role === "bucket" ? `${column.name} (${zone})` : column.name);

function select(name, options) {
  const node = el("select", {}, ...options.map(([value, text]) => el("option", { value }, text)));
  return { select: node, label: el("label", {}, name, node) };
}

/** The first sentence of what its author says, and how it parts time. */
function what(rollup) {
  const [said] = (rollup.description ?? "").split("\n\n");
  const by = `by ${rollup.bucket.replace(/^1 /, "")}${rollup.zone === "UTC" ? "" : ` in ${rollup.zone}`}`;
  return said ? `${said.replace(/\s+/g, " ")} (${by})` : by;
}

const isNumber = (column) => column.kind === "integer" || column.kind === "float";
