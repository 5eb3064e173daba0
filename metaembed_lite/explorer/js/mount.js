// An instrument on a page without a kernel.

/** Run anywidget's entry `render` in `el`. `state` replaces the traits that Python shares. */
export function mount(el, state, render) {
  const listeners = {};
  const model = {
    get: (trait) => state[trait],
    set(trait, value) {
      state[trait] = value;
      for (const listener of listeners[`change:${trait}`] ?? []) listener();
    },
    save_changes() {},
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    off(event, listener) {
      listeners[event] = listeners[event].filter((other) => other !== listener);
    },
  };
  settle(el);
  return render({ model, el });
}

/**
 * The book's theme puts HTML output into a scroller, on light ground in dark mode. An instrument
 * has its own ground, and its sticky part needs the page's scroller. It sticks below the page's
 * bar.
 */
function settle(el) {
  const frame = el.closest(".text_html");
  if (frame) Object.assign(frame.style, { background: "none", padding: "0", overflow: "visible" });
  const bar = document.querySelector(".bd-header-article");
  if (bar) el.style.setProperty("--bar", `${bar.offsetHeight}px`);
}
