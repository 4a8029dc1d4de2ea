// Which boxes a call graph has and where they stand: folding and layout.
//
// A box stands for one call, or for several siblings of one function. Where there would be too many
// boxes, there is one for each function at each depth.

const FOLD_OVER = 6; // siblings of one function: more of them are one box
const MOST_BOXES = 2000; // more than these are folded to (function, depth)
const MOST_UNFOLDED = 20000;
const OPENED = 100; // so many siblings of an opened box are shown, the rest stays one
const NOTHING = new Map();
const BOX = { width: 168, height: 34, across: 56, along: 10 };

/** What is drawn: boxes, each of which stands for one call or for several alike. */
class Picture {
  constructor(tree, folds, opened) {
    this.tree = tree;
    this.boxes = [];
    this.edges = [];
    this.byDepth = false;
    if (!this.siblings(folds ? FOLD_OVER : Infinity, opened, folds ? MOST_BOXES : MOST_UNFOLDED)) {
      this.depths();
    }
    this.byDepth ? this.layered() : this.slotted();
    this.count();
  }

  /** One box a call, but many siblings of one function are one; false: these are too many. */
  siblings(most, opened, limit) {
    const childrenOf = this.tree.children();
    const queue = [[null, [childrenOf(-1)]]];
    for (const [parent, lists] of queue) {
      for (const [name, rows] of this.byName(lists)) {
        const key = `${parent ? parent.key : ""}/${name}`;
        const isOpen = opened.has(key);
        const shown = rows.length <= most ? rows.length : isOpen ? OPENED : 0;
        if (this.boxes.length + shown > limit) return this.forget();
        for (let i = 0; i < Math.min(shown, rows.length); i++) {
          const box = this.box(`${key}#${rows[i]}`, name, [rows[i]], parent);
          box.group = isOpen && rows.length > most ? key : "";
          queue.push([box, [childrenOf(rows[i])]]);
        }
        if (shown >= rows.length) continue;
        const rest = this.box(key, name, rows.slice(shown), parent);
        rest.group = key;
        queue.push([rest, rest.rows.map(childrenOf)]);
      }
    }
    return true;
  }

  byName(lists) {
    if (lists.length === 1 && !lists[0].length) return NOTHING;
    const found = new Map();
    for (const list of lists) {
      for (const row of list) {
        const name = this.tree.name.data[row];
        const rows = found.get(name);
        rows ? rows.push(row) : found.set(name, [row]);
      }
    }
    return found;
  }

  forget() {
    this.boxes = [];
    this.edges = [];
    return false;
  }

  box(key, name, rows, parent) {
    const box = { key, name, rows, parent, kids: [], depth: parent ? parent.depth + 1 : 0 };
    box.group = "";
    this.boxes.push(box);
    if (parent) {
      parent.kids.push(box);
      this.edges.push([parent, box, 1]);
    }
    return box;
  }

  /** One box for each function at each depth. */
  depths() {
    this.byDepth = true;
    const { tree } = this;
    const found = new Map();
    const of = new Array(tree.size);
    const edges = new Map();
    for (let row = 0; row < tree.size; row++) {
      const [depth, name] = [tree.depth.data[row], tree.name.data[row]];
      const key = `@${depth}/${name}`;
      let box = found.get(key);
      if (!box) {
        found.set(key, (box = this.box(key, name, [], null)));
        box.depth = depth;
        box.into = [];
      }
      box.rows.push(row);
      of[row] = box;
      if (tree.parent.data[row] < 0) continue;
      const parent = of[tree.parent.data[row]];
      const edge = edges.get(parent)?.get(box);
      if (edge) {
        edge[2]++;
        continue;
      }
      const fresh = [parent, box, 1];
      if (!edges.has(parent)) edges.set(parent, new Map());
      edges.get(parent).set(box, fresh);
      this.edges.push(fresh);
      box.into.push(parent);
      parent.kids.push(box);
      box.parent ??= parent;
    }
  }

  /** A tree: every leaf has a row of its own, a parent stands in the middle of its children. */
  slotted() {
    let slot = 0;
    const place = (root) => {
      const todo = [[root, 0]];
      while (todo.length) {
        const top = todo[todo.length - 1];
        const [box, next] = top;
        if (next < box.kids.length) {
          top[1]++;
          todo.push([box.kids[next], 0]);
          continue;
        }
        const { kids } = box;
        box.at = kids.length ? (kids[0].at + kids[kids.length - 1].at) / 2 : slot++;
        todo.pop();
      }
    };
    this.boxes.filter((box) => !box.parent).forEach(place);
    this.finish(slot);
  }

  /** Layers, each in the order of its parents' barycentre. */
  layered() {
    const levels = [];
    for (const box of this.boxes) (levels[box.depth] ??= []).push(box);
    const widest = Math.max(1, ...levels.map((level) => level.length));
    for (const level of levels) {
      for (const box of level) {
        box.pull = box.into.reduce((sum, above) => sum + above.at, 0) / (box.into.length || 1);
      }
      level.sort((a, b) => a.pull - b.pull);
      level.forEach((box, i) => (box.at = ((i + 0.5) * widest) / level.length - 0.5));
    }
    this.finish(widest);
  }

  finish(slots) {
    let deepest = 0;
    for (const box of this.boxes) {
      box.x = box.depth * (BOX.width + BOX.across);
      box.y = box.at * (BOX.height + BOX.along);
      deepest = Math.max(deepest, box.depth);
    }
    this.width = (deepest + 1) * (BOX.width + BOX.across) - BOX.across;
    this.height = Math.max(slots, 1) * (BOX.height + BOX.along) - BOX.along;
  }

  /** Add up what the calls of each box say. */
  count() {
    const { counts, times } = this.tree;
    for (const box of this.boxes) {
      const sums = (box.counts ??= [0, 0, 0, 0, 0]).fill(0);
      let began = Infinity;
      let ended = -1;
      for (const row of box.rows) {
        for (let s = 0; s < STATES.length; s++) sums[s] += counts.data[row * STATES.length + s];
        const [from, to] = [times.data[2 * row], times.data[2 * row + 1]];
        if (from >= 0 && from < began) began = from;
        if (to > ended) ended = to;
      }
      box.total = sums[0] + sums[1] + sums[2] + sums[3] + sums[4];
      box.state = NOTABLE.find((state) => sums[state]) ?? WAITING;
      box.began = began;
      box.ended = sums[WAITING] || sums[RUNNING] ? -1 : ended;
      box.cells = null;
    }
  }

  /** `count` cells for the inputs of a box: the notable state of each part. */
  cells(box, count) {
    if (box.cells?.length === count) return box.cells;
    const cells = new Uint8Array(count).fill(255);
    const per = box.total / count;
    let [position, limit] = [0, count - 1];
    for (const row of box.rows) {
      const total = this.tree.total.data[row];
      for (let i = 0; i < total; i++, position++) {
        const cell = Math.min(limit, Math.floor(position / per));
        const state = this.tree.stateOf(row, i);
        const known = cells[cell];
        if (known === 255 || NOTABLE.indexOf(state) < NOTABLE.indexOf(known)) cells[cell] = state;
      }
    }
    return (box.cells = cells);
  }

  /** The call and the input at a position among all inputs of a box. */
  inputAt(box, position) {
    for (const row of box.rows) {
      const total = this.tree.total.data[row];
      if (position < total) return [row, position];
      position -= total;
    }
    return [box.rows[0], 0];
  }

  /** The next position with a failed input after `position`, or -1. */
  nextFailed(box, position) {
    let [at, first] = [0, -1];
    for (const row of box.rows) {
      const total = this.tree.total.data[row];
      if (this.tree.counts.data[row * STATES.length + FAILED]) {
        for (let i = 0; i < total; i++) {
          if (this.tree.stateOf(row, i) !== FAILED) continue;
          if (at + i > position) return at + i;
          if (first < 0) first = at + i;
        }
      }
      at += total;
    }
    return first;
  }
}
