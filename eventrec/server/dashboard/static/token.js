// The token of this tab: asked for where the server wants one.

import { token } from "./api.js";
import { $, say } from "./dom.js";

let asked = false;

/** Make the dialog work; `changed` is called with whatever token there is then. */
export function useTokens(changed) {
  const dialog = $("token-dialog");
  $("token-open").addEventListener("click", () =>
    open("This server may want a token. It is kept in this tab until you close it."),
  );
  $("token-cancel").addEventListener("click", () => dialog.close());
  $("token-forget").addEventListener("click", () => {
    token.forget();
    dialog.close();
    asked = false;
    changed();
  });
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token.set($("token").value.trim());
    dialog.close();
    asked = false;
    changed();
  });
  dialog.addEventListener("close", () => {
    $("token").value = "";
  });
}

/** Ask for a token because the server has refused: once, until there is another one; `insist` asks again. Whether. */
export function wantToken(refusal, { scope = "read", insist = false } = {}) {
  if (refusal.held !== token.get()) return false; // another one is in use by now
  if (asked && !insist) return false;
  asked = true;
  open(reason(refusal, scope));
  return true;
}

function reason(refusal, scope) {
  if (refusal.status === 403) return `This token may not do that: it takes one with the scope “${scope}”.`;
  if (token.get() !== null) return "The server does not know this token.";
  return `The server wants a token with the scope “${scope}”.`;
}

function open(why) {
  say($("token-why"), why);
  $("token-forget").disabled = token.get() === null;
  if (!$("token-dialog").open) $("token-dialog").showModal();
}
