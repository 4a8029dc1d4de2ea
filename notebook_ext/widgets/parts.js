// What every widget's module here begins with: small things that several of them need.
//
// `live.front_end` puts this file in front of a widget's own, so these are plain functions of the
// same module. No imports and no network.

function node(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Call `redraw` when the theme changes; return what ends that. */
function onTheme(redraw) {
  const observer = new MutationObserver(redraw);
  observer.observe(document.body, {
    attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"],
  });
  return () => observer.disconnect();
}

/** The colours that CSS variables stand for in the present theme of `el`, as [r, g, b, a]. */
function colours(el, names) {
  const probe = el.appendChild(node("i", ""));
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const found = names.map((name) => {
    probe.style.color = `var(--nbx-${name})`;
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = getComputedStyle(probe).color;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  });
  probe.remove();
  return found;
}

/**
 * Have the keys of a focused element be its own: notebooks have some for cells (Notebook 7 takes
 * even the arrows of a slider), and hear them before the element does.
 */
function keepKeys(el) {
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  el.addEventListener("keydown", (event) => event.stopPropagation());
}

/**
 * A button that sends `content()` to the kernel: `button(model, "Cancel", () => ({ op: "cancel" }))`.
 *
 * Disabled it keeps the focus and says why (`able(made, false, "has ended")`); where the kernel
 * cannot hear it while a cell runs, the model's `hint` says what to do instead.
 */
function button(model, label, content) {
  const made = node("button", "nbx-button", label);
  made.type = "button";
  made.addEventListener("click", (event) => {
    event.stopPropagation();
    if (made.getAttribute("aria-disabled") !== "true") model.send(content());
  });
  keepKeys(made);
  able(made, !model.get("hint"), model.get("hint"));
  return made;
}

/** Let a button act or not, and say why not. */
function able(made, can, why) {
  made.setAttribute("aria-disabled", String(!can));
  made.title = can ? "" : (why ?? "");
}

/** A place that screen readers read out: what is said is replaced every few seconds at most. */
class Spoken {
  constructor(seconds = 5) {
    this.el = node("span", "nbx-spoken");
    this.el.setAttribute("role", "status");
    this.el.setAttribute("aria-live", "polite");
    this.pause = 1000 * seconds;
    this.last = -Infinity;
    this.timer = 0;
  }

  /** Say `text` soon; `now` for what a click led to and for the end. */
  say(text, now = false) {
    if (text === this.wanted) return;
    this.wanted = text;
    clearTimeout(this.timer);
    const wait = now ? 0 : Math.max(0, this.last + this.pause - performance.now());
    this.timer = setTimeout(() => {
      this.last = performance.now();
      this.el.textContent = this.wanted;
    }, wait);
  }

  close() {
    clearTimeout(this.timer);
  }
}
