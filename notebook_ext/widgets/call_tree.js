// The calls of a tree, as the kernel tells of them: one row a call, in columns that grow.

const STATES = ["waiting", "running", "done", "failed", "cancelled"];
const [WAITING, RUNNING, DONE, FAILED, CANCELLED] = [0, 1, 2, 3, 4];
const GLYPHS = ["○", "▶", "✓", "✕", "–"];
/** Of several states in one place, the first of these is seen. */
const NOTABLE = [FAILED, RUNNING, CANCELLED, WAITING, DONE];

/** A typed array that grows. */
class Column {
  constructor(kind, wide = 1) {
    this.wide = wide;
    this.data = new kind(256 * wide);
  }

  reserve(count) {
    const needed = count * this.wide;
    if (needed <= this.data.length) return;
    const larger = new this.data.constructor(Math.max(needed, 2 * this.data.length));
    larger.set(this.data);
    this.data = larger;
  }
}

/** The calls of a tree, as the kernel told of them; a call is a row. */
class Tree {
  constructor() {
    this.views = new Set();
    this.version = 0; // of the structure; it never goes back
    this.reset();
  }

  reset() {
    this.size = 0;
    this.names = [];
    this.title = "";
    this.error = "";
    this.ended = false;
    this.version++;
    this.parent = new Column(Int32Array);
    this.name = new Column(Uint32Array);
    this.depth = new Column(Uint32Array);
    this.total = new Column(Uint32Array);
    this.counts = new Column(Uint32Array, STATES.length);
    this.times = new Column(Float64Array, 2); // began, ended; -1: unknown
    this.strips = new Map();
    this.clock = [0, 0]; // the kernel's time, and ours at that moment
  }

  now() {
    return this.ended ? this.clock[0] : this.clock[0] + (performance.now() - this.clock[1]) / 1000;
  }

  tick(message, buffers) {
    if (message.whole) this.reset();
    this.names.push(...message.names);
    Object.assign(this, { title: message.title, error: message.error, ended: message.ended });
    this.clock = [message.now, performance.now()];
    this.add(words(buffers[0], Uint32Array));
    this.change(words(buffers[1], Uint32Array), words(buffers[2], Float64Array));
    this.paint(words(buffers[3], Uint32Array), words(buffers[4], Uint8Array));
    this.views.forEach((ask) => ask());
  }

  /** Two words a new call: the row of its parent + 1, and its function. */
  add(rows) {
    const count = rows.length / 2;
    if (!count) return;
    for (const column of [this.parent, this.name, this.depth, this.total, this.counts, this.times]) {
      column.reserve(this.size + count);
    }
    for (let i = 0; i < count; i++) {
      const at = this.size + i;
      const parent = rows[2 * i] - 1;
      this.parent.data[at] = parent;
      this.name.data[at] = rows[2 * i + 1];
      this.depth.data[at] = parent < 0 ? 0 : this.depth.data[parent] + 1;
      this.total.data[at] = 0;
      this.counts.data.fill(0, at * STATES.length, (at + 1) * STATES.length);
    }
    this.size += count;
    this.version++;
  }

  /** Six words a changed call: its row and how many inputs are in each state. */
  change(rows, times) {
    const wide = STATES.length + 1;
    for (let i = 0; i < rows.length / wide; i++) {
      const at = rows[i * wide];
      let total = 0;
      for (let s = 0; s < STATES.length; s++) {
        const count = rows[i * wide + 1 + s];
        this.counts.data[at * STATES.length + s] = count;
        total += count;
      }
      this.total.data[at] = total;
      this.times.data[2 * at] = times[2 * i];
      this.times.data[2 * at + 1] = times[2 * i + 1];
    }
  }

  /** Three words a range of inputs of a call of many: its row, the first, the one after the last. */
  paint(ranges, states) {
    for (let i = 0; i < states.length; i++) {
      const [at, start, stop] = ranges.subarray(3 * i, 3 * i + 3);
      let strip = this.strips.get(at);
      if (!strip || strip.length < this.total.data[at]) {
        const longer = new Uint8Array(this.total.data[at]);
        if (strip) longer.set(strip);
        this.strips.set(at, (strip = longer));
      }
      strip.fill(states[i], start, stop);
    }
  }

  /** The state of one input of a call. */
  stateOf(at, index) {
    const strip = this.strips.get(at);
    if (strip && index < strip.length) return strip[index];
    const counts = this.counts.data.subarray(at * STATES.length, (at + 1) * STATES.length);
    return NOTABLE.find((state) => counts[state]) ?? WAITING;
  }

  /** Children of each row: `list` from `starts[row + 1]` (roots: row -1) on. */
  children() {
    const starts = new Uint32Array(this.size + 2);
    for (let i = 0; i < this.size; i++) starts[this.parent.data[i] + 2]++;
    for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
    const list = new Uint32Array(this.size);
    const next = starts.slice();
    for (let i = 0; i < this.size; i++) list[next[this.parent.data[i] + 1]++] = i;
    return (row) => list.subarray(starts[row + 1], starts[row + 2]);
  }
}

/** A copy: where a buffer begins need not suit the kind of its words. */
function words(view, kind) {
  if (!view || !view.byteLength) return new kind(0);
  return new kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}
