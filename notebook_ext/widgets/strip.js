// The state of every input of a map, and a canvas that shows it: up to millions of cells.
//
// A `Strip` keeps one byte an input (the codes of STATES). What changed comes as binary messages
// (`tick`); `snapshot` is the whole state, zlib-compressed, for a view that starts in the middle.

const STATES = ["pending", "queued", "running", "done", "failed", "cancelled"];
const [PENDING, QUEUED, RUNNING, DONE, FAILED, CANCELLED] = STATES.keys();
const CELL_SIZES = [14, 12, 10, 8, 7, 6, 5, 4, 3, 2];
const STRIP_HEIGHT = 84;

async function inflate(view) {
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
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
    const stats = model.get("stats");
    if (!this.stats.state) this.stats = stats; // nothing to show yet
    this.then(async () => {
      if (view && view.byteLength) this.states = await inflate(view);
      this.stats = stats; // behind the ticks that came before it
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

/** One canvas with a cell for every input (or for every few, where there are too many). */
class StripCanvas {
  constructor(el, strip) {
    this.el = el;
    this.strip = strip;
    this.canvas = node("canvas", "");
    this.canvas.tabIndex = 0;
    keepKeys(this.canvas);
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
    this.colours ??= colours(this.el, STATES);
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
