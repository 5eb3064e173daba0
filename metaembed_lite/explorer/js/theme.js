// Dark or light, as the surroundings are.

/** Dark or light, by the setting of the book, of JupyterLab, or of the system. */
function readTheme() {
  const book = document.documentElement.dataset.theme;
  if (book === "dark" || book === "light") return book;
  const lab = document.body.dataset.jpThemeLight;
  if (lab) return lab === "false" ? "dark" : "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** Keep `root` in the theme of its surroundings. Returns a function that stops it. */
export function followTheme(root, redraw = () => {}) {
  const apply = () => {
    root.dataset.theme = readTheme();
    redraw();
  };
  const observer = new MutationObserver(apply);
  observer.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  observer.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", apply);
  apply();
  return () => {
    observer.disconnect();
    system.removeEventListener("change", apply);
  };
}
