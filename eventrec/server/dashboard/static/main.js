// The page: what is asked how often, and what becomes of the answers.

import { ask, Refusal, server } from "./api.js";
import { showBars } from "./bars.js";
import { DeadLetters } from "./dead.js";
import { showDestinations } from "./destinations.js";
import { $, announce, say, state } from "./dom.js";
import { keepFocus } from "./focus.js";
import { count } from "./format.js";
import { losses, Rates, showNow } from "./now.js";
import { showRelay } from "./relay.js";
import { Link, pauseAfter, Poller } from "./polling.js";
import { Resuming } from "./resume.js";
import { Rollups } from "./rollups.js";
import { Tail } from "./tail.js";
import { useTheme } from "./theme.js";
import { useTokens, wantToken } from "./token.js";

const STATUS = { every: 2_000, hidden: 60_000 };
const DEAD = { every: 15_000, hidden: 300_000 };
const ROLLUPS = { every: 30_000, hidden: 600_000 };

const link = new Link();
const rates = new Rates();
const dead = new DeadLetters({ failed: (error) => deadLetters.again(error) });
const rollups = new Rollups({ failed: (error) => answers.again(error) });
const tail = new Tail({ link, refused: (refusal) => wantToken(refusal) });

const status = new Poller({ ...STATUS, ask: askStatus });
const deadLetters = new Poller({ ...DEAD, link, ask: () => dead.load() });
const answers = new Poller({ ...ROLLUPS, link, ask: () => rollups.load() });
const resuming = new Resuming({ resumed: () => status.now() });

let countdown = null;
let wasDown = false;
let wasWell = null;

async function askStatus(failures) {
  if (failures) connection("bad", "Trying again");
  let answer;
  try {
    answer = await ask("status");
  } catch (error) {
    failed(error, failures + 1);
    throw error;
  }
  const { status: account, health } = answer;
  const { reasons } = health;
  clearInterval(countdown);
  $("try-now").hidden = true;
  if (wasDown) announce("The server answers again.");
  wasDown = false;
  connection("good", "Live");
  document.title = reasons.length ? "! eventrec" : "eventrec";
  showNow(account, rates);
  showDestinations(account, reasons, (name) => resuming.ask(name));
  showRelay(account, (name, called) => resuming.ask(name, called));
  showLosses(account);
  if (dead.note(answer.log?.dead_letters ?? null)) deadLetters.now();
  const isWell = reasons.length === 0;
  if (wasWell !== null && wasWell !== isWell) announce(isWell ? "All is well again." : reasons[0]);
  wasWell = isWell;
  link.up();
}

function failed(error, failures) {
  const isRefused = server.wantsTokens && error instanceof Refusal && (error.status === 401 || error.status === 403);
  clearInterval(countdown);
  link.down();
  if (isRefused) {
    connection("warn", "Needs a token");
    wantToken(error);
  } else if (error instanceof Refusal) {
    connection("warn", `The server refuses: ${error.message}`);
  } else {
    offline(performance.now() + Math.max(STATUS.every, pauseAfter(failures)));
  }
  if (!wasDown) {
    announce(isRefused ? "The server wants a token." : "The server does not answer.");
    document.title = isRefused ? "eventrec" : "! eventrec, offline";
  }
  wasDown = true;
  const why = isRefused ? "Needs a token." : `No answer: ${error.message}.`;
  for (const section of ["destinations", "types", "dead", "losses", "rollups", "tail"]) {
    if ($(section).getAttribute("aria-busy") === "true") state(section, why);
  }
  $("try-now").hidden = isRefused;
}

function offline(until) {
  clearInterval(countdown);
  const tell = () => {
    const left = Math.max(0, Math.ceil((until - performance.now()) / 1000));
    connection("bad", left ? `Offline, trying again in ${left} s` : "Offline, trying again");
  };
  tell();
  countdown = setInterval(tell, 1_000);
}

function connection(kind, text) {
  $("connection").dataset.state = kind;
  say($("connection-text"), text);
}

function showLosses(account) {
  const found = losses(account);
  showBars(
    $("loss-list"),
    found.slice(0, 12).map((each) => ({ name: each.name, value: each.count, said: count(each.count) })),
    "loss",
  );
  state("losses", found.length ? "" : "Nothing was refused or dropped.");
}

keepFocus();
useTheme($("theme"), () => rollups.redraw());
useTokens(() => {
  for (const poller of [status, deadLetters, answers]) poller.now({ insist: true });
  tail.again({ insist: true });
});
$("try-now").addEventListener("click", () => status.now({ insist: true }));
link.addEventListener("up", () => {
  for (const poller of [deadLetters, answers]) poller.now();
});
link.addEventListener("down", () => tail.again());

status.run();
deadLetters.run();
answers.run();
tail.run();
