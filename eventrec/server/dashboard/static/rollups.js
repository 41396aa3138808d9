// Every rollup, one card each; range and zone are chosen for all.

import { ask, server } from "./api.js";
import { $, el, keyed, state } from "./dom.js";
import { Card } from "./rollup.js";

export class Rollups {
  #cards = new Map();
  #asking = null;

  #failed;

  /** `failed` is called with the error of what a user asked for: it is to be asked for again. */
  constructor({ failed }) {
    this.#failed = failed;
    const again = () => this.load().catch(failed);
    $("range").addEventListener("change", () => {
      const isCustom = $("range").value === "custom";
      $("custom-range").hidden = !isCustom;
      if (!isCustom || $("range-from").value || $("range-to").value) again();
    });
    for (const id of ["range-from", "range-to", "zone"]) $(id).addEventListener("change", again);
    $("rollup-choices").addEventListener("submit", (event) => event.preventDefault());
    $("rollups-refresh").addEventListener("click", again);
    for (const zone of zones()) $("zones").append(el("option", { value: zone }));
  }

  /** Ask for the list, and then for each rollup, one after the other. */
  async load() {
    if (!server.reads)
      return state("rollups", "This server reads no destination: start it with one that can be read, to see rollups.");
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    try {
      const { rollups } = await ask("rollups", {}, { signal: asking.signal });
      this.#list(rollups);
      for (const rollup of rollups) await this.#cards.get(rollup.name).load(asking.signal);
    } catch (error) {
      if (asking.signal.aborted) return undefined;
      if (this.#cards.size === 0)
        state("rollups", error.message, { bad: true, again: () => this.load().catch(this.#failed) });
      throw error;
    }
    return undefined;
  }

  /** The colours are others. */
  redraw() {
    for (const card of this.#cards.values()) card.redraw();
  }

  #list(rollups) {
    const make = (rollup) => {
      const card = new Card(rollup, this.#failed);
      this.#cards.set(rollup.name, card);
      return card.node;
    };
    for (const [name, card] of this.#cards) {
      if (rollups.some((rollup) => rollup.name === name)) continue;
      card.close();
      this.#cards.delete(name);
    }
    keyed(
      $("rollup-list"),
      rollups,
      (rollup) => rollup.name,
      make,
      () => {},
    );
    state("rollups", rollups.length ? "" : "No rollup is declared: name a catalogue that has some, to see them here.");
  }
}

function zones() {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return [...new Set(["UTC", own, ...(Intl.supportedValuesOf?.("timeZone") ?? [])])];
}
