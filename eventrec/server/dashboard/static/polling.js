// When the server is asked: never before the last answer has come, rarely while nobody looks, ever later while it fails.

const FIRST_PAUSE = 1_000;
const LEAST_PAUSE = 2_000; // behind a question that failed
const MAX_PAUSE = 60_000;
export const MAX_TIMER = 2 ** 31 - 1; // a longer one would be over at once

/** How long to wait after so many failures in a row. */
export const pauseAfter = (failures) => Math.min(MAX_PAUSE, FIRST_PAUSE * 2 ** (failures - 1));

/** By the page's clock, when the server wants to be asked again after `error`. */
export const notBefore = (error) => performance.now() + 1_000 * (error.retryAfter ?? 0);

/** Whether the server answers, as the question that is asked most often finds out; all others wait for it. */
export class Link extends EventTarget {
  isUp = false;

  up() {
    if (this.isUp) return;
    this.isUp = true;
    this.dispatchEvent(new Event("up"));
  }

  down() {
    if (!this.isUp) return;
    this.isUp = false;
    this.dispatchEvent(new Event("down"));
  }

  async untilUp() {
    if (!this.isUp) await new Promise((resolve) => this.addEventListener("up", resolve, { once: true }));
  }
}

/** Asks again and again: every so many milliseconds, and every `hidden` ones while the page is not looked at. */
export class Poller {
  #every;
  #hidden;
  #ask;
  #link;
  #wake = () => {};
  #isWanted = false;
  #isInsisted = false;
  #notBefore = 0; // by the page's clock: what the server said

  constructor({ every, hidden, ask, link = null }) {
    this.#every = every;
    this.#hidden = hidden;
    this.#ask = ask;
    this.#link = link;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#wake() : this.now()));
    addEventListener("online", () => this.now());
  }

  /** Ask as soon as the answer to the last question is there; where the server said how long to wait, only then. */
  now({ insist = false } = {}) {
    this.#isWanted = true;
    this.#isInsisted ||= insist;
    this.#wake();
  }

  /** As `now`, because of the error that came of the same question, asked beside this one. */
  again(error) {
    this.#notBefore = notBefore(error);
    this.now();
  }

  async run() {
    for (let failures = 0; ;) {
      await this.#link?.untilUp();
      this.#isWanted = this.#isInsisted = false;
      try {
        await this.#ask(failures);
        failures = 0;
      } catch (error) {
        failures += 1; // what asks has said it
        this.#notBefore = notBefore(error);
      }
      await this.#rest(failures);
    }
  }

  async #rest(failures) {
    const since = performance.now();
    for (;;) {
      const usual = document.hidden ? this.#hidden : this.#every;
      const again = Math.max(document.hidden ? usual : LEAST_PAUSE, pauseAfter(failures));
      const pause = this.#isWanted ? 0 : failures ? again : usual;
      const now = performance.now();
      const left = Math.max(since + pause, this.#isInsisted ? 0 : this.#notBefore) - now;
      if (left <= 0) return;
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, MAX_TIMER));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
