// What the dashboard and the pool widget are put together from.

const WORKER_STATES = ["busy", "blocked", "idle", "parked", "starting", "stopping"];
/** In words for people: what waits for a nested call is busy elsewhere, what is idle is warm. */
const STATE_WORDS = { busy: "busy", blocked: "waits", idle: "warm", parked: "parked", starting: "starting", stopping: "stopping" };
const HISTORY_SECONDS = 120;

const number = (value) => value.toLocaleString("en");
const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

function duration(value) {
  if (!Number.isFinite(value) || value < 0) return "";
  const padded = (part) => String(Math.floor(part)).padStart(2, "0");
  if (value < 60) return `${Math.floor(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} m ${padded(value % 60)} s`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${padded((value % 3600) / 60)} m`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

function mebibytes(value) {
  if (value === null || value === undefined) return "–";
  return value < 1024 ? `${Math.round(value)} MiB` : `${(value / 1024).toFixed(1)} GiB`;
}

/** Set text only where it differs: screen readers and selections are left alone. */
function say(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

/** Elements by key: made once, brought up to date, put in order, taken away when gone. */
class Keyed {
  constructor(place, make) {
    this.place = place;
    this.make = make;
    this.made = new Map();
  }

  show(rows) {
    const seen = new Set();
    let before = this.place.firstChild;
    for (const row of rows) {
      seen.add(row.id);
      let shown = this.made.get(row.id);
      if (!shown) this.made.set(row.id, (shown = this.make(row)));
      shown.show(row);
      if (shown.el === before) before = before.nextSibling;
      else this.place.insertBefore(shown.el, before);
    }
    for (const [key, shown] of this.made) {
      if (seen.has(key)) continue;
      shown.el.remove();
      this.made.delete(key);
    }
  }
}

/** A coloured part of a bar for each count; said in words as a whole. */
class Bar {
  constructor(kinds) {
    this.el = node("div", "nbx-stack");
    this.el.setAttribute("role", "img");
    this.parts = kinds.map((kind) => this.el.appendChild(node("i", `nbx-is-${kind}`)));
  }

  show(counts, whole, said) {
    counts.forEach((count, i) => {
      this.parts[i].style.width = `${whole ? (100 * count) / whole : 0}%`;
      this.parts[i].style.minWidth = count ? "2px" : "0";
    });
    this.el.setAttribute("aria-label", said);
    this.el.title = said;
  }
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, className) {
  const made = document.createElementNS(SVG, tag);
  made.setAttribute("class", className);
  return made;
}

/** Workers over the last two minutes, stacked, with the backlog as a line on a scale of its own. */
class Chart {
  constructor() {
    this.el = node("div", "nbx-chart");
    this.picture = svg("svg", "nbx-plot");
    this.picture.setAttribute("preserveAspectRatio", "none");
    this.picture.setAttribute("viewBox", "0 0 120 60");
    this.picture.setAttribute("role", "img");
    this.areas = ["busy", "idle", "starting"].map((kind) =>
      this.picture.appendChild(svg("path", `nbx-area nbx-is-${kind}`)),
    );
    this.line = this.picture.appendChild(svg("path", "nbx-line"));
    this.top = node("span", "nbx-axis nbx-axis-top");
    this.bottom = node("span", "nbx-axis nbx-axis-bottom", "0");
    this.right = node("span", "nbx-axis nbx-axis-right");
    this.since = node("span", "nbx-axis nbx-axis-since", "2 min ago");
    this.el.append(this.picture, this.top, this.bottom, this.right, this.since);
  }

  /** `samples`: [at, busy, idle, starting, backlog] each, oldest first; `now` in the same seconds. */
  show(samples, now) {
    const most = Math.max(2, ...samples.map(([, busy, idle, starting]) => busy + idle + starting));
    const deepest = Math.max(0, ...samples.map((sample) => sample[4]));
    const across = (at) => 120 - ((now - at) / HISTORY_SECONDS) * 120;
    const under = samples.map(() => 0);
    this.areas.forEach((area, kind) => {
      const lower = [...under];
      samples.forEach((sample, i) => (under[i] += sample[1 + kind]));
      area.setAttribute("d", this.area(samples, lower, under, across, now, most));
    });
    this.line.setAttribute("d", deepest ? this.path(samples, across, now, deepest) : "");
    say(this.top, String(most));
    say(this.right, deepest ? `backlog ${number(samples[samples.length - 1][4])}` : "");
    const last = samples[samples.length - 1] ?? [0, 0, 0, 0, 0];
    const said = `Workers over the last two minutes: now ${last[1]} busy, ${last[2]} warm, ${last[3]} starting; at most ${most} at once; backlog ${number(last[4])}`;
    this.picture.setAttribute("aria-label", said);
  }

  /** Steps: a count holds until the next one. */
  area(samples, lower, upper, across, now, most) {
    if (!samples.length) return "";
    const high = (value) => (60 - (value / most) * 56).toFixed(1);
    const steps = (values) =>
      samples.map((sample, i) => {
        const [from, to] = [across(sample[0]), across(samples[i + 1]?.[0] ?? now)];
        return [`${from.toFixed(1)} ${high(values[i])}`, `${to.toFixed(1)} ${high(values[i])}`];
      });
    const above = steps(upper).flat();
    const below = steps(lower).flat().reverse();
    return `M${above.join("L")}L${below.join("L")}Z`;
  }

  path(samples, across, now, deepest) {
    const points = samples.map((sample) => {
      const high = 58 - (sample[4] / deepest) * 52;
      return `${across(sample[0]).toFixed(1)} ${high.toFixed(1)}`;
    });
    const last = points[points.length - 1].split(" ")[1];
    return `M${points.join("L")}L${across(now).toFixed(1)} ${last}`;
  }
}

/** A slider for one setting of a pool: it tells what it is set to when it is let go. */
class Slider {
  constructor(name, hint, set) {
    this.el = node("label", "nbx-slider");
    this.el.title = hint;
    this.el.append(node("span", "nbx-slider-name", name));
    this.input = this.el.appendChild(node("input", ""));
    this.input.type = "range";
    this.input.setAttribute("aria-label", `${name}: ${hint}`);
    this.value = this.el.appendChild(node("output", "nbx-slider-value"));
    this.held = false;
    this.until = 0;
    this.input.addEventListener("input", () => {
      this.held = true;
      this.word(Number(this.input.value));
    });
    this.input.addEventListener("change", () => {
      this.held = false;
      this.until = performance.now() + 1500; // the answer is on its way
      set(Number(this.input.value));
    });
    keepKeys(this.input);
  }

  /** `value` null: there is no limit. */
  show(value, low, high) {
    this.input.min = low;
    this.input.max = high;
    if (this.held || performance.now() < this.until) return;
    this.input.value = value ?? high;
    this.word(value);
  }

  word(value) {
    const text = value === null ? "no limit" : String(value);
    say(this.value, text);
    this.input.setAttribute("aria-valuetext", text);
  }
}
