// Where the keyboard is: an answer may move, hide or take away what has the focus, or what a dialog was opened from.

/** Give the focus back, or to the title of that section: else a keyboard would begin at the top of the page again. */
export function keepFocus() {
  let last = null; // what had the focus on the page itself; null: nothing, or a user has pressed elsewhere
  let section = null; // that it stood in

  function mend() {
    if (last === null || document.querySelector("dialog[open]")) return;
    const active = document.activeElement ?? document.body;
    if (![document.body, last].includes(active) && isThere(active)) return;
    if (isThere(last)) {
      if (active !== last) last.focus({ preventScroll: true });
      return;
    }
    const title = section?.querySelector("h2");
    const next = title && isThere(title) ? title : document.querySelector("main");
    next.tabIndex = -1;
    next.focus();
  }

  const isOfDialog = (target) => target.closest("dialog") !== null;
  document.addEventListener("focusin", ({ target }) => {
    if (isOfDialog(target)) return;
    last = target;
    section = target.closest("section");
  });
  document.addEventListener("pointerdown", ({ target }) => {
    if (last !== null && !isOfDialog(target) && !last.contains(target)) last = null;
  });
  new MutationObserver(mend).observe(document.body, {
    subtree: true,
    childList: true,
    attributeFilter: ["hidden", "open"],
  });
}

const isThere = (node) => node.isConnected && node.checkVisibility();
