// The progress of a map: the front end's half of ProgressWidget.
//
// A model keeps `states`, one byte an input (the codes of STATES), and draws them as cells on a
// canvas. What changed comes as binary messages; `snapshot` is the whole state, zlib-compressed, for
// a view that starts in the middle. No imports and no network: this works offline in any front end.

const STATES = ["pending", "queued", "running", "done", "failed", "cancelled"];
const [PENDING, QUEUED, RUNNING, DONE, FAILED, CANCELLED] = STATES.keys();
const SEGMENTS = ["done", "failed", "cancelled", "running"];
const CELL_SIZES = [14, 12, 10, 8, 7, 6, 5, 4, 3, 2];
const STRIP_HEIGHT = 84;

async function inflate(view) {
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function node(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The states of the inputs [base, base + states.length), and who wants to hear of changes. */
class Strip {
  constructor() {
    this.states = new Uint8Array(0);
    this.base = 0;
    this.stats = {};
    this.views = new Set();
    this.work = Promise.resolve(); // snapshots inflate asynchronously: everything keeps its order
  }

  then(step) {
    this.work = this.work.then(step).catch((error) => console.warn("notebook_ext:", error));
  }

  restore(model) {
    const [view, base, count] = ["snapshot", "base", "count"].map((name) => model.get(name));
    this.stats = model.get("stats");
    this.then(async () => {
      if (view && view.byteLength) this.states = await inflate(view);
      this.base = base;
      this.resize(count);
      this.changed();
    });
  }

  tick(message, buffer) {
    this.then(() => {
      this.stats = message.stats;
      this.base = message.base;
      this.resize(message.count);
      this.apply(buffer);
      this.changed();
    });
  }

  resize(count) {
    if (count === this.states.length) return;
    const grown = new Uint8Array(count);
    grown.set(this.states.subarray(0, count));
    this.states = grown;
  }

  apply(buffer) {
    // The buffer's offset need not be a multiple of four: copy before reading words.
    const bytes = buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength);
    const count = bytes.byteLength / 9;
    const starts = new Uint32Array(bytes, 0, count);
    const stops = new Uint32Array(bytes, 4 * count, count);
    const codes = new Uint8Array(bytes, 8 * count, count);
    for (let i = 0; i < count; i++) this.states.fill(codes[i], starts[i], stops[i]);
  }

  changed() {
    for (const view of this.views) view();
  }
}

/** What a cell that stands for the inputs [start, stop) looks like: [state, part of it done]. */
function fold(states, start, stop) {
  if (stop - start === 1) return [states[start], 1];
  const seen = new Uint32Array(STATES.length);
  for (let i = start; i < stop; i++) seen[states[i]]++;
  for (const state of [FAILED, RUNNING, CANCELLED]) if (seen[state]) return [state, 1];
  if (seen[DONE]) return [DONE, seen[DONE] / (stop - start)];
  return [seen[QUEUED] ? QUEUED : PENDING, 1];
}

/** How `count` inputs fit into `width` pixels: the largest cells that keep the strip low. */
function layout(count, width) {
  for (const size of CELL_SIZES) {
    const columns = Math.max(1, Math.floor(width / size));
    if (Math.ceil(count / columns) * size <= STRIP_HEIGHT) {
      const gap = size >= 8 ? 2 : size >= 4 ? 1 : 0;
      return { size, gap, columns, rows: Math.ceil(count / columns), each: 1 };
    }
  }
  const size = CELL_SIZES.at(-1);
  const columns = Math.max(1, Math.floor(width / size));
  const each = Math.ceil(count / (columns * Math.floor(STRIP_HEIGHT / size)));
  return { size, gap: 0, columns, rows: Math.ceil(count / each / columns), each };
}

/** The colours of the states as [r, g, b, a], read from the style sheet in the present theme. */
function palette(el) {
  const probe = el.appendChild(node("i", ""));
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const colours = STATES.map((name) => {
    probe.style.color = `var(--nbx-${name})`;
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = getComputedStyle(probe).color;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  });
  probe.remove();
  return colours;
}

/** One canvas with a cell for every input (or for every few, where there are too many). */
class StripCanvas {
  constructor(el, strip) {
    this.el = el;
    this.strip = strip;
    this.canvas = node("canvas", "");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.cursor = -1;
    this.grid = layout(0, 1);
    this.colours = null;
  }

  draw() {
    const { canvas, strip } = this;
    const count = strip.states.length;
    const width = canvas.clientWidth;
    canvas.hidden = count === 0;
    if (!count || !width) return;
    this.colours ??= palette(this.el);
    this.grid = layout(count, width);
    const ratio = globalThis.devicePixelRatio || 1;
    const { size, rows } = this.grid;
    const [w, h] = [Math.round(width * ratio), Math.round(rows * size * ratio)];
    if (canvas.width !== w || canvas.height !== h) {
      [canvas.width, canvas.height] = [w, h];
      canvas.style.height = `${rows * size}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, rows * size);
    if (size >= 7) this.drawShapes(context);
    else this.drawPixels(context);
    this.drawCursor(context);
  }

  drawShapes(context) {
    const { size, gap, columns } = this.grid;
    const { states } = this.strip;
    const side = size - gap;
    const paths = STATES.map(() => new Path2D());
    for (let i = 0; i < states.length; i++) {
      const [x, y] = [(i % columns) * size, Math.floor(i / columns) * size];
      paths[states[i]].roundRect(x, y, side, side, side / 5);
    }
    paths.forEach((path, state) => {
      context.fillStyle = `rgba(${this.css(state)})`;
      context.fill(path);
    });
    this.drawMarks(context);
  }

  drawMarks(context) {
    // Failed cells also have a shape, for those who cannot tell the colours apart.
    const { size, gap, columns } = this.grid;
    const { states } = this.strip;
    const [from, to] = [(size - gap) * 0.28, (size - gap) * 0.72];
    const marks = new Path2D();
    for (let i = states.indexOf(FAILED); i >= 0; i = states.indexOf(FAILED, i + 1)) {
      const [x, y] = [(i % columns) * size, Math.floor(i / columns) * size];
      marks.moveTo(x + from, y + from);
      marks.lineTo(x + to, y + to);
      marks.moveTo(x + to, y + from);
      marks.lineTo(x + from, y + to);
    }
    context.strokeStyle = "#fff";
    context.lineWidth = 1.4;
    context.stroke(marks);
  }

  drawPixels(context) {
    const { size, gap, columns, rows, each } = this.grid;
    const { states } = this.strip;
    const image = new ImageData(columns, rows);
    const cells = Math.ceil(states.length / each);
    for (let cell = 0; cell < cells; cell++) {
      const start = cell * each;
      const [state, part] = fold(states, start, Math.min(start + each, states.length));
      const [r, g, b, a] = this.colours[state];
      image.data.set([r, g, b, a * (0.35 + 0.65 * part)], cell * 4);
    }
    const small = new OffscreenCanvas(columns, rows);
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, columns * size, rows * size);
    if (gap) this.clearGaps(context);
    this.drawDots(context);
  }

  clearGaps(context) {
    const { size, gap, columns, rows } = this.grid;
    for (let x = 1; x <= columns; x++) context.clearRect(x * size - gap, 0, gap, rows * size);
    for (let y = 1; y <= rows; y++) context.clearRect(0, y * size - gap, columns * size, gap);
  }

  drawDots(context) {
    // One failure among thousands must be seen: it is drawn larger than its cell.
    const { size, columns, each } = this.grid;
    const { states } = this.strip;
    const side = Math.max(size, 5);
    const shift = (side - size) / 2;
    const dots = new Path2D();
    let i = states.indexOf(FAILED);
    while (i >= 0) {
      const cell = Math.floor(i / each);
      const [x, y] = [(cell % columns) * size, Math.floor(cell / columns) * size];
      dots.rect(x - shift, y - shift, side, side);
      i = states.indexOf(FAILED, (cell + 1) * each);
    }
    context.fillStyle = `rgba(${this.css(FAILED)})`;
    context.fill(dots);
    if (side === size) return;
    context.strokeStyle = "rgba(255, 255, 255, 0.75)";
    context.lineWidth = 1;
    context.stroke(dots);
  }

  drawCursor(context) {
    if (this.cursor < 0) return;
    const { size, gap, columns } = this.grid;
    const [x, y] = [(this.cursor % columns) * size, Math.floor(this.cursor / columns) * size];
    context.strokeStyle = getComputedStyle(this.el).color;
    context.lineWidth = 1.5;
    context.strokeRect(x - 0.5, y - 0.5, size - gap + 1, size - gap + 1);
  }

  css(state) {
    const [r, g, b, a] = this.colours[state];
    return `${r}, ${g}, ${b}, ${a / 255}`;
  }

  cellAt(event) {
    const { size, columns, rows } = this.grid;
    const column = Math.floor(event.offsetX / size);
    const row = Math.floor(event.offsetY / size);
    return column < columns && row < rows ? row * columns + column : -1;
  }

  /** Move the cursor to `cell` (-1: nowhere) and return what is there, in words. */
  point(cell) {
    const { each } = this.grid;
    const { states, base } = this.strip;
    const [start, stop] = [cell * each, Math.min((cell + 1) * each, states.length)];
    this.cursor = cell >= 0 && start < states.length ? cell : -1;
    if (this.cursor < 0) return "";
    if (stop - start === 1) return `input ${base + start}: ${STATES[states[start]]}`;
    const counts = STATES.map((name, state) => {
      const found = states.subarray(start, stop).reduce((sum, s) => sum + (s === state), 0);
      return found ? `${found} ${name}` : "";
    });
    return `inputs ${base + start}–${base + stop - 1}: ${counts.filter(Boolean).join(", ")}`;
  }

  step(key) {
    const { columns, each } = this.grid;
    const last = Math.ceil(this.strip.states.length / each) - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (key === "Home") return 0;
    if (key === "End") return last;
    if (!(key in steps)) return null;
    return this.cursor < 0 ? 0 : Math.max(0, Math.min(last, this.cursor + steps[key]));
  }
}

/** Everything around the canvas: the numbers, the bar, the legend, the first error. */
class Panel {
  constructor(el, title) {
    this.title = title;
    const head = node("div", "nbx-head");
    this.headline = node("span", "nbx-headline");
    this.percent = node("span", "nbx-percent");
    this.timing = node("span", "nbx-timing");
    head.append(node("span", "nbx-title", title), this.percent, this.headline, this.timing);
    head.firstChild.title = title;
    this.bar = node("div", "nbx-bar");
    this.bar.setAttribute("role", "progressbar");
    this.bar.setAttribute("aria-label", title);
    this.segments = SEGMENTS.map((name) => this.bar.appendChild(node("i", `nbx-is-${name}`)));
    this.foot = node("div", "nbx-foot");
    this.keys = SEGMENTS.map((name) => this.foot.appendChild(node("span", `nbx-key nbx-is-${name}`)));
    this.more = this.foot.appendChild(node("span", "nbx-key nbx-plain"));
    this.tip = this.foot.appendChild(node("span", "nbx-tip"));
    this.tip.setAttribute("aria-live", "polite");
    this.waiting = node("div", "nbx-waiting nbx-is-running");
    this.error = node("div", "nbx-error nbx-is-failed");
    this.spoken = node("span", "nbx-spoken");
    this.spoken.setAttribute("role", "status");
    this.parts = [head, this.bar, this.foot, this.waiting, this.error, this.spoken];
    el.classList.add("nbx-progress");
  }

  show(stats) {
    this.percent.textContent = stats.percent ?? "";
    this.percent.hidden = !stats.percent;
    this.percent.className = `nbx-percent nbx-in-${stats.state}`;
    this.headline.textContent = stats.headline ?? "";
    this.timing.textContent = stats.timing ?? "";
    this.showBar(stats);
    SEGMENTS.forEach((name, i) => {
      this.keys[i].hidden = !stats[name];
      this.keys[i].textContent = `${(stats[name] ?? 0).toLocaleString("en")} ${name}`;
    });
    const running = stats.state === "running";
    const extra = [];
    if (stats.retried) extra.push(`${stats.retried.toLocaleString("en")} retried`);
    if (running && stats.workers) extra.push(`${stats.workers} worker${stats.workers > 1 ? "s" : ""}`);
    this.more.textContent = extra.join(" · ");
    this.reveal(this.waiting, stats.waiting_for && `waits: ${stats.waiting_for}`);
    this.reveal(this.error, stats.error);
    const said = stats.state && !running ? `${this.title}: ${stats.state}, ${stats.summary}` : "";
    if (this.spoken.textContent !== said) this.spoken.textContent = said;
  }

  showBar(stats) {
    const ended = (stats.done ?? 0) + (stats.failed ?? 0) + (stats.cancelled ?? 0);
    const endless = stats.total == null;
    this.bar.classList.toggle("nbx-endless", endless && stats.state === "running");
    const whole = endless ? ended : Math.max(stats.total, 1);
    SEGMENTS.forEach((name, i) => {
      const part = endless && stats.state === "running" ? 0 : (stats[name] ?? 0) / (whole || 1);
      this.segments[i].style.width = `${100 * part}%`;
    });
    this.bar.setAttribute("aria-valuetext", `${stats.headline ?? ""}, ${stats.summary ?? ""}`);
    this.bar.setAttribute("aria-valuemin", "0");
    if (endless) return;
    this.bar.setAttribute("aria-valuemax", String(stats.total));
    this.bar.setAttribute("aria-valuenow", String(ended));
  }

  reveal(place, text) {
    place.hidden = !text;
    if (place.textContent !== text) place.textContent = text || "";
  }
}

/** Call `redraw` when the theme changes; return what ends that. */
function onTheme(redraw) {
  const observer = new MutationObserver(redraw);
  observer.observe(document.body, {
    attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"],
  });
  return () => observer.disconnect();
}

export default () => {
  const strip = new Strip();
  return {
    initialize({ model }) {
      strip.restore(model);
      model.on("change:snapshot", () => strip.restore(model));
      model.on("change:stats", () => {
        strip.stats = model.get("stats");
        strip.changed();
      });
      model.on("msg:custom", (message, buffers) => {
        if (message.op === "tick") strip.tick(message, buffers[0]);
      });
    },

    render({ model, el }) {
      const panel = new Panel(el, model.get("title"));
      const cells = new StripCanvas(el, strip);
      const [head, bar, ...below] = panel.parts;
      el.append(head, bar, cells.canvas, ...below);
      let asked = 0;
      const draw = () => {
        asked = 0;
        panel.show(strip.stats);
        cells.canvas.setAttribute("aria-label", `State of every input: ${strip.stats.summary ?? ""}`);
        cells.draw();
      };
      const ask = () => (asked ||= requestAnimationFrame(draw));
      const point = (cell) => {
        panel.tip.textContent = cells.point(cell);
        ask();
      };
      cells.canvas.addEventListener("mousemove", (event) => point(cells.cellAt(event)));
      cells.canvas.addEventListener("mouseleave", () => point(-1));
      cells.canvas.addEventListener("blur", () => point(-1));
      cells.canvas.addEventListener("keydown", (event) => {
        const cell = cells.step(event.key);
        if (cell === null) return;
        event.preventDefault();
        event.stopPropagation();
        point(cell);
      });
      const resized = new ResizeObserver(ask);
      resized.observe(el);
      const themed = onTheme(() => {
        cells.colours = null;
        ask();
      });
      strip.views.add(ask);
      ask();
      return () => {
        strip.views.delete(ask);
        resized.disconnect();
        themed();
        cancelAnimationFrame(asked);
      };
    },
  };
};
