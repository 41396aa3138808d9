// Where moments stand on the axis of a chart: by the clock of a zone, also where it is put forward or back.

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const SUNDAY = 3 * DAY; // the first one since the epoch
const ROOM = 80; // pixels between two ticks

/** Milliseconds from tick to tick; these and how many of them are plotly.js's, up to two weeks. */
const STEPS = [
  ...[1, 2, 5, 10, 15, 30].map((minutes) => (minutes * HOUR) / 60),
  ...[1, 2, 3, 6, 12].map((hours) => hours * HOUR),
  ...[1, 2, 3, 7, 14].map((days) => days * DAY),
];

const date = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", timeZone: "UTC" });
const dateOfYear = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeZone: "UTC" });

export class Axis {
  #told;
  #ahead;
  #fixed = null;

  /**
   * For moments in RFC 3339, by the clock of `zone`. `isEven`: an hour is as wide as any other, also one that the
   * clock shows twice, and what the clock leaves out has no place. Else a moment stands where the clock shows it.
   */
  constructor(texts, { zone, isEven }) {
    this.#told = new Map(texts.map((text) => [Date.parse(text), aheadOf(text)]));
    this.#ahead = clockOf(zone, this.#told);
    if (isEven) this.#fixed = this.#told.values().next().value ?? 0;
  }

  /** The place of a moment: milliseconds as the axis counts them. */
  at = (moment) => moment + (this.#fixed ?? this.#ahead(moment));

  /** Whether the clock shows something else than the axis has there, somewhere between two places. */
  isChanged(from, to) {
    return this.#fixed !== null && this.#offsets(from, to).some((ahead) => ahead !== this.#fixed);
  }

  /** Where ticks are and what they say, on so many pixels; null: plotly.js knows as well. */
  ticks(from, to, width) {
    if (!this.isChanged(from, to)) return null;
    const rough = (to - from) / (Math.min(9, Math.max(4, width / ROOM)) + 1);
    const step = STEPS.find((each) => each >= rough);
    if (step === undefined) return null; // an hour more or less is not seen
    const [first, last] = [from - this.#fixed, to - this.#fixed];
    const found = new Map();
    for (const ahead of this.#offsets(from, to)) {
      const since = step > 3 * DAY ? SUNDAY : 0;
      for (let shown = roundUp(first + ahead - since, step) + since; shown <= last + ahead; shown += step)
        if (this.#shows(shown, ahead, step)) found.set(shown - ahead, shown);
    }
    const ticks = [...found]
      .sort(([a], [b]) => a - b)
      .filter(([, shown], place, all) => isNew(shown, place, all, step));
    return {
      tickvals: ticks.map(([moment]) => written(this.at(moment))),
      ticktext: ticks.map(([, shown], place) => label(shown, ticks[place - 1]?.[1], step)),
    };
  }

  #offsets(from, to) {
    return [...new Set([...this.#told.values(), this.#ahead(from - this.#fixed), this.#ahead(to - this.#fixed)])];
  }

  /** Whether the clock, so far ahead, shows that; of a day, also where it is put forward just then. */
  #shows(shown, ahead, step) {
    const now = this.#ahead(shown - ahead);
    return now === ahead || (step >= DAY && now > ahead && this.#ahead(shown - ahead - 1) === ahead);
  }
}

/** A place on the axis, as plotly.js takes it. */
export const written = (place) => new Date(place).toISOString().slice(0, 19);

/** How far the clock of a moment in RFC 3339 is ahead of UTC's, in milliseconds. */
const aheadOf = (text) => Date.parse(`${text.slice(0, 19)}Z`) - Date.parse(text);

/** How far the clock of `zone` is ahead of UTC's at a moment; that of the row before, where the browser has others. */
function clockOf(zone, told) {
  const known = clockKnown(zone);
  if (known !== null && [...told].every(([moment, ahead]) => known(moment) === ahead)) return known;
  const moments = [...told.keys()].sort((a, b) => a - b);
  return (moment) => told.get(moments.findLast((each) => each <= moment) ?? moments[0]) ?? 0;
}

function clockKnown(zone) {
  let clock;
  try {
    clock = new Intl.DateTimeFormat("en", { timeZone: zone, timeZoneName: "longOffset" });
  } catch {
    return null; // a zone, or a way to name it, that this browser does not know
  }
  return (moment) => {
    const said = clock.formatToParts(moment).find((part) => part.type === "timeZoneName").value; // "GMT-03:30"
    const [, sign, hours, minutes] = /([+-])(\d\d):(\d\d)/.exec(said) ?? ["", "+", 0, 0];
    return (sign === "-" ? -1 : 1) * (Number(hours) + Number(minutes) / 60) * HOUR;
  };
}

const roundUp = (value, step) => Math.ceil(value / step) * step;

/** What the clock shows twice has two ticks only where they are as far from each other as others are. */
const isNew = (shown, place, all, step) => step <= HOUR || !all.slice(0, place).some((each) => each[1] === shown);

/** What a tick says, as plotly.js does: with the date, or its year, where that is another one than before. */
function label(shown, before, step) {
  const text = written(shown);
  const changing = step < DAY ? 10 : 4; // characters of it
  const said = step < DAY ? text.slice(11, 16) : date.format(shown);
  if (before !== undefined && written(before).slice(0, changing) === text.slice(0, changing)) return said;
  return `${said}<br>${step < DAY ? dateOfYear.format(shown) : text.slice(0, 4)}`;
}
