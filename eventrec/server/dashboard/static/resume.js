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
  #isBusy = false;
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
    if (this.#isBusy) return;
    this.#name = name;
    this.#called = called;
    say($("resume-title"), `Resume ${called}`);
    say($("resume-text"), TEXT);
    say($("resume-error"), "");
    $("resume-from").value = "";
    $("resume-dialog").showModal();
  }

  async #resume(name) {
    if (this.#isBusy) return;
    this.#busy(true);
    try {
      await ask(`resume/${encodeURIComponent(name)}`, { from: $("resume-from").value || null }, { method: "POST" });
      $("resume-dialog").close();
      announce(`${this.#called} is told to go on.`);
      this.#resumed();
    } catch (error) {
      say($("resume-error"), error.message);
      if (error instanceof Refusal && [401, 403].includes(error.status)) {
        $("resume-dialog").close();
        wantToken(error, { scope: "admin", insist: true });
      }
    } finally {
      this.#busy(false);
    }
  }

  #busy(isBusy) {
    this.#isBusy = isBusy;
    $("resume-yes").setAttribute("aria-disabled", String(isBusy));
    say($("resume-yes"), isBusy ? "Resuming" : "Resume");
  }
}
