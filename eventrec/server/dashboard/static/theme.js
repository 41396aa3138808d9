// Light or dark: as the system has it, or as it was chosen here.

const KEPT = "eventrec.theme";

/** Follow the choice of `select`; `changed` is called after the colours are others. */
export function useTheme(select, changed) {
  select.value = read();
  apply(select.value);
  select.addEventListener("change", () => {
    keep(select.value);
    apply(select.value);
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}

/** The colour that a custom property means now, as rgb(). */
export function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function apply(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function read() {
  try {
    return localStorage.getItem(KEPT) ?? "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

function keep(theme) {
  try {
    localStorage.setItem(KEPT, theme);
  } catch {
    // likewise: it holds while the page is open
  }
}
