// Letting a destination go on that waits for an operator.

import { ask, Refusal } from "./api.js";
import { $, announce, say } from "./dom.js";
import { wantToken } from "./token.js";

const TEXT =
  "It goes on at once, and is paused again where nothing has changed. " +
  "It takes a token with the scope “admin” where the server wants tokens.";

export class Resuming {
  #name = null; // of the subscription that waits for a yes
  #called = "";
  #busy = new Set(); // names of those that are being resumed
  #resumed;

  /** `resumed` is called when one goes on. */
  constructor({ resumed }) {
    this.#resumed = resumed;
    $("resume-cancel").addEventListener("click", () => $("resume-dialog").close());
    $("resume-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#resume(this.#name);
    });
  }

  /** Ask whether the subscription `name`, or what of a relay goes on with it, is to go on. */
  ask(name, called = name) {
    this.#name = name;
    this.#called = called;
    say($("resume-title"), `Resume ${called}`);
    say($("resume-text"), TEXT);
    say($("resume-error"), "");
    $("resume-from").value = "";
    this.#showBusy();
    $("resume-dialog").showModal();
  }

  async #resume(name) {
    if (this.#busy.has(name)) return;
    const called = this.#called;
    const isShown = () => $("resume-dialog").open && this.#name === name;
    const from = $("resume-from").value;
    this.#busy.add(name);
    this.#showBusy();
    try {
      await ask(`resume/${encodeURIComponent(name)}`, { from: from || null }, { method: "POST" });
      if (isShown()) $("resume-dialog").close();
      announce(`${called} is told to go on.`);
      this.#resumed();
    } catch (error) {
      const isOfToken = error instanceof Refusal && [401, 403].includes(error.status);
      const wasShown = isShown();
      if (!isOfToken || !wantToken(error, { scope: "admin", insist: true }))
        this.#failed(name, called, { from, why: error.message });
      else if (wasShown) $("resume-dialog").close();
    } finally {
      this.#busy.delete(name);
      this.#showBusy();
    }
  }

  /** Say why, in the dialog of that one: again where it was closed meanwhile, and no other one is open. */
  #failed(name, called, { from, why }) {
    if (!$("resume-dialog").open) {
      this.ask(name, called);
      $("resume-from").value = from;
    }
    if (this.#name === name) say($("resume-error"), why);
    else announce(`${called} does not go on: ${why}`);
  }

  #showBusy() {
    const isBusy = this.#busy.has(this.#name);
    $("resume-yes").setAttribute("aria-disabled", String(isBusy));
    say($("resume-yes"), isBusy ? "Resuming" : "Resume");
  }
}
