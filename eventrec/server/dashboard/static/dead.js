// Dead letters: which wait, what each says, and delivering them after all.

import { ask, Refusal } from "./api.js";
import { $, announce, el, keyed, say, state } from "./dom.js";
import { count, counted, moment, parsed, span } from "./format.js";
import { tile } from "./now.js";
import { wantToken } from "./token.js";

const MOST = 1_000; // asked for
const SHOWN = 8; // of one group, as buttons
const GROUPS = 20;
const REPLAY_SECONDS = 60;
const REPLAYS = 5; // of which it is said what became of them

export class DeadLetters {
  #asked = null; // the group whose replay waits for a yes
  #busy = new Set(); // subscriptions that are being replayed
  #groups = []; // what was shown last
  #loading = null; // what the newest question is ended by
  #known; // how many wait; null: no log; undefined: not known yet
  #replays = new Map(); // by subscription, what is said of the last one
  #opened = null; // for each letter that is shown, another object
  #failed;

  /** `failed` is called with the error of a list that a user asked for: it is to be asked for again. */
  constructor({ failed }) {
    this.#failed = failed;
    $("dead-refresh").addEventListener("click", () => this.load().catch(failed));
    $("letter-close").addEventListener("click", () => $("letter-dialog").close());
    $("replay-cancel").addEventListener("click", () => $("replay-dialog").close());
    $("replay-form").addEventListener("submit", (event) => {
      event.preventDefault();
      $("replay-dialog").close();
      this.#replay(this.#asked);
    });
  }

  /** Show what a status counts; true where the list is an old one. */
  note(counts) {
    const total = counts === null ? 0 : Object.values(counts).reduce((all, each) => all + each, 0);
    const why = counts === null ? "kept in a log alone" : "none waits";
    tile("dead-count", count(total), total ? "they wait for an operator" : why, { bad: total > 0 });
    const before = this.#known;
    this.#known = counts === null ? null : total;
    return this.#known !== before;
  }

  async load() {
    if (this.#known === undefined) return undefined;
    if (this.#known === null) return state("dead", "This recorder keeps no log, and so no dead letters.");
    this.#loading?.abort();
    const loading = (this.#loading = new AbortController());
    try {
      this.#show(await ask("dead", { limit: MOST }, { signal: loading.signal }));
    } catch (error) {
      if (loading.signal.aborted) return undefined; // a newer question is under way, and shows what it finds
      this.#fail(error);
      throw error;
    }
    return undefined;
  }

  #show({ letters, waiting, unreadable }) {
    const groups = (this.#groups = this.#merged(letters));
    const rest = waiting > letters.length ? `, the oldest ${count(letters.length)} of them here` : "";
    const cut = groups.length > GROUPS ? `, ${GROUPS} of ${count(groups.length)} kinds shown` : "";
    const damaged = Object.keys(unreadable).length;
    const more = damaged ? `; ${counted(damaged, "log")} of them cannot be read` : "";
    say(
      $("dead-head"),
      waiting || damaged ? `${count(waiting)} ${waiting === 1 ? "waits" : "wait"}${rest}${cut}${more}` : "",
    );
    this.#draw();
    state("dead", groups.length ? "" : "No dead letter waits.");
  }

  #draw() {
    keyed(
      $("dead-list"),
      this.#groups.slice(0, GROUPS),
      (group) => group.key,
      (group) => this.#make(group),
      (node, group) => this.#update(node, group),
    );
  }

  /** The groups of `letters`; those of a subscription under replay, whose letters come and go, as they were shown. */
  #merged(letters) {
    const isBusy = ({ subscription }) => this.#busy.has(subscription);
    const found = grouped(letters.filter((letter) => !isBusy(letter)));
    return largestFirst([...found, ...this.#groups.filter(isBusy)]);
  }

  #make(group) {
    const replay = el("button", { type: "button", class: "replay" }, "Replay");
    const node = el(
      "li",
      { class: "letter-group" },
      el(
        "div",
        {},
        el("h3", {}, `${group.type}, for ${group.subscription}`),
        el("p", { class: "letter-reason" }, group.reason),
      ),
      el("div", { class: "letter-buttons" }, replay),
      el("p", { class: "letter-numbers" }),
      el("ul", { class: "letter-offsets", "aria-label": "Records" }),
    );
    replay.setAttribute("aria-label", `Replay the dead letters of ${group.subscription}`);
    replay.addEventListener("click", () => this.#ask(node.group));
    return node;
  }

  #update(node, group) {
    node.group = group;
    const button = node.querySelector(".replay");
    const isBusy = this.#busy.has(group.subscription);
    button.setAttribute("aria-disabled", String(isBusy));
    say(button, isBusy ? "Replaying" : "Replay");
    const [first] = group.letters;
    say(
      node.querySelector(".letter-numbers"),
      `${counted(group.letters.length, "letter")}, the oldest of ${moment(Date.parse(first.time))}`,
    );
    const shown = group.letters.slice(0, SHOWN);
    keyed(
      node.querySelector(".letter-offsets"),
      shown,
      (letter) => letter.id,
      (letter) => {
        const name = {
          type: "button",
          "aria-label": `Show record ${letter.offset}`,
          onclick: () => this.#open(letter),
        };
        return el("li", {}, el("button", name, `#${letter.offset}`));
      },
      () => {},
    );
  }

  async #open(letter) {
    const opened = (this.#opened = {});
    say($("letter-title"), `Record ${letter.offset}: ${letter.type}`);
    say($("letter-text"), "Loading");
    $("letter-dialog").showModal();
    let text;
    try {
      text = JSON.stringify(parsed(await ask(`dead/${encodeURIComponent(letter.id)}`, {}, { asText: true })), null, 2);
    } catch (error) {
      text = error.message;
    }
    if (this.#opened === opened) say($("letter-text"), text);
  }

  #ask(group) {
    if (this.#busy.has(group.subscription)) return;
    this.#asked = group;
    say($("replay-title"), `Replay for ${group.subscription}`);
    say(
      $("replay-text"),
      `All dead letters of ${group.subscription} are delivered once more, each with its own time and id. ` +
        "What is refused again stays a dead letter. It takes a token with the scope “admin” where the server wants tokens.",
    );
    $("replay-dialog").showModal();
  }

  async #replay({ subscription }) {
    this.#busy.add(subscription);
    this.#draw();
    this.#tellReplay(subscription, `replaying, for ${span(REPLAY_SECONDS)} at most`);
    let said;
    try {
      const body = { subscription, timeout: REPLAY_SECONDS };
      const done = await ask("dead/replay", {}, { method: "POST", body, patience: (REPLAY_SECONDS + 10) * 1_000 });
      said = `${count(done.delivered)} delivered, ${count(done.refused_again)} refused again, ${count(done.waiting)} left`;
      if (!done.is_done) said += `: ${done.state}`;
    } catch (error) {
      said = error.message;
      if (error instanceof Refusal && [401, 403].includes(error.status))
        wantToken(error, { scope: "admin", insist: true });
    }
    this.#busy.delete(subscription);
    this.#draw();
    this.#tellReplay(subscription, said);
    announce(`${subscription}: ${said}`);
    await this.load().catch(this.#failed);
  }

  /** What became of the last replay of each: it stays until the next one, whatever the list shows meanwhile. */
  #tellReplay(subscription, said) {
    this.#replays.delete(subscription); // the newest stands last
    this.#replays.set(subscription, said);
    keyed(
      $("replays"),
      [...this.#replays].slice(-REPLAYS),
      ([name]) => name,
      () => el("li"),
      (node, [name, text]) => say(node, `${name}: ${text}`),
    );
  }

  #fail(error) {
    if ($("dead-list").childElementCount === 0)
      state("dead", error.message, { bad: true, again: () => this.load().catch(this.#failed) });
    else say($("dead-head"), error.message);
  }
}

/** Letters of one subscription, type and reason together, the largest group first. */
function grouped(letters) {
  const found = new Map();
  for (const letter of letters) {
    const key = JSON.stringify([letter.subscription, letter.type, letter.reason]);
    if (!found.has(key))
      found.set(key, { key, subscription: letter.subscription, type: letter.type, reason: letter.reason, letters: [] });
    found.get(key).letters.push(letter);
  }
  return largestFirst([...found.values()]);
}

const largestFirst = (groups) => groups.sort((a, b) => b.letters.length - a.letters.length);
