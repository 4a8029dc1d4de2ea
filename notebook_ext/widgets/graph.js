// The live tree of a call. The kernel sends calls and their states as they become known; folding,
// layout and drawing happen here, on one canvas. No imports: it works offline.

const HEIGHT = 400;
const DETAILS_HEIGHT = 340;

/** A button for the view alone: nothing goes to the kernel. */
function tool(label, title, act) {
  const made = node("button", "nbx-button", label);
  made.type = "button";
  made.title = title;
  made.setAttribute("aria-label", title);
  made.addEventListener("click", act);
  keepKeys(made);
  return made;
}

function seconds(value) {
  if (!Number.isFinite(value) || value < 0) return "";
  const padded = (part) => String(Math.floor(part)).padStart(2, "0");
  if (value < 0.0995) return `${Math.max(1, Math.round(value * 1000))} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 60) return `${Math.round(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} m ${padded(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${padded((value % 3600) / 60)} m`;
}

const number = (value) => value.toLocaleString("en");

function spokenCounts(counts) {
  const words = [FAILED, RUNNING, DONE, CANCELLED, WAITING].filter((state) => counts[state]);
  return words.map((state) => `${number(counts[state])} ${STATES[state]}`).join(", ");
}

/** One place where a tree is shown. */
class View {
  constructor(model, el, tree) {
    this.model = model;
    this.tree = tree;
    this.folds = true;
    this.opened = new Set();
    this.picture = new Picture(tree, true, this.opened);
    this.drawn = [-1, ""];
    this.build(el);
    this.listen();
  }

  build(el) {
    el.classList.add("nbx", "nbx-graph");
    const head = el.appendChild(node("div", "nbx-head"));
    this.title = head.appendChild(node("span", "nbx-title"));
    this.summary = head.appendChild(node("span", "nbx-summary"));
    const tools = head.appendChild(node("div", "nbx-tools"));
    tools.setAttribute("role", "group");
    tools.setAttribute("aria-label", "View");
    this.foldButton = tool("Fold", "Fold calls that are alike", () => this.fold());
    this.foldButton.setAttribute("aria-pressed", "true");
    tools.append(
      this.foldButton,
      tool("−", "Smaller", () => this.zoom(1 / 1.3)),
      tool("+", "Larger", () => this.zoom(1.3)),
      tool("Fit", "Show all of it", () => this.fit()),
    );
    const main = el.appendChild(node("div", "nbx-main"));
    const stage = main.appendChild(node("div", "nbx-stage"));
    this.canvas = new Canvas(stage, (box) => this.label(box));
    this.tip = stage.appendChild(node("div", "nbx-tip"));
    this.details = new Details(
      (row, index) => this.model.send({ op: "detail", row, index }),
      () => this.select(null, true),
    );
    main.append(this.details.el);
    this.details.el.hidden = true;
    this.foot = el.appendChild(node("div", "nbx-foot"));
    this.spoken = new Spoken();
    el.append(this.spoken.el);
  }

  listen() {
    const { el: canvas } = this.canvas;
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", () => (this.tip.textContent = ""));
    canvas.addEventListener("dblclick", (event) => this.toggle(this.boxAt(event)));
    canvas.addEventListener("keydown", (event) => this.key(event));
    const ask = () => this.ask();
    const resized = new ResizeObserver(ask);
    resized.observe(canvas.parentElement);
    const themed = onTheme(() => {
      this.canvas.colours = null;
      this.ask();
    });
    const told = (message) => message.op === "detail" && this.details.told(message);
    this.model.on("msg:custom", told);
    this.tree.views.add(ask);
    const clock = setInterval(() => this.picture.boxes.length && !this.tree.ended && ask(), 500);
    this.close = () => {
      this.tree.views.delete(ask);
      this.model.off("msg:custom", told);
      resized.disconnect();
      themed();
      this.spoken.close();
      clearInterval(clock);
      cancelAnimationFrame(this.asked);
    };
    this.ask();
  }

  ask() {
    this.asked ||= requestAnimationFrame(() => {
      this.asked = 0;
      this.draw();
    });
  }

  draw() {
    const began = performance.now();
    const { tree } = this;
    const wanted = [tree.version, `${this.folds}${[...this.opened]}`];
    const isNew = wanted[0] !== this.drawn[0] || wanted[1] !== this.drawn[1];
    if (isNew) {
      this.picture = new Picture(tree, this.folds, this.opened);
      this.drawn = wanted;
    } else {
      this.picture.count();
    }
    this.size();
    this.canvas.draw(this.picture);
    this.say();
    const box = this.find(this.selected);
    this.details.show(this.picture, box ?? null, box ? this.label(box) : null);
    const spent = (performance.now() - began).toFixed(1);
    const { dataset } = this.canvas.el;
    Object.assign(dataset, { boxes: this.picture.boxes.length, drawMs: spent });
    if (isNew) dataset.layoutMs = spent;
  }

  /** As high as the boxes need, and as the details do. */
  size() {
    const lowest = Math.min(HEIGHT, Math.max(96, this.picture.height + 2 * MARGIN));
    const high = this.selected ? Math.max(lowest, DETAILS_HEIGHT) : lowest;
    this.canvas.el.style.height = `${high}px`;
    this.details.el.style.maxHeight = `${high + 2}px`;
  }

  say() {
    const { tree, picture } = this;
    const counts = [0, 0, 0, 0, 0];
    for (let row = 0; row < tree.size; row++) {
      for (let s = 0; s < STATES.length; s++) counts[s] += tree.counts.data[row * STATES.length + s];
    }
    this.title.textContent = tree.title || "Call graph";
    const calls = `${number(tree.size)} call${tree.size === 1 ? "" : "s"}`;
    this.summary.textContent = picture.byDepth ? `${calls}, folded by function and depth` : calls;
    this.legend(counts);
    const said = spokenCounts(counts) || "nothing is known yet";
    this.canvas.el.setAttribute("aria-label", `Call graph of ${tree.title}: ${calls}, ${said}. Arrow keys move, Enter opens, F goes to the next failure.`);
    if (tree.ended && !this.wasEnded) this.spoken.say(`${tree.title} has ended: ${said}`, true);
    this.wasEnded = tree.ended;
  }

  legend(counts) {
    this.keys ??= this.addKeys();
    this.note ??= this.foot.appendChild(node("span", "nbx-note"));
    this.keys.forEach(([key, text], state) => {
      key.hidden = !counts[state];
      const said = `${number(counts[state])} ${STATES[state]}`;
      if (text.textContent !== said) text.textContent = said;
      if (state === FAILED) key.setAttribute("aria-label", `${said}: go to the next failed call`);
    });
    if (this.note.textContent !== this.tree.error) this.note.textContent = this.tree.error;
  }

  /** One key a state. The one to click on stands where no count that changes moves it. */
  addKeys() {
    const keys = STATES.map((_, state) => this.addKey(state));
    this.foot.prepend(keys[FAILED][0]);
    return keys;
  }

  addKey(state) {
    const jumps = state === FAILED;
    const key = jumps ? tool("", "Go to the next failed call", () => this.nextFailed()) : node("span", "");
    key.classList.add("nbx-key", `nbx-is-${STATES[state]}`);
    const glyph = key.appendChild(node("span", "nbx-glyph", GLYPHS[state]));
    glyph.setAttribute("aria-hidden", "true");
    const text = key.appendChild(node("span", ""));
    this.foot.append(key);
    return [key, text];
  }

  label(box) {
    const { tree } = this;
    const [name, began] = [tree.names[box.name] ?? "", box.began];
    const count = box.total > 1 ? `× ${number(box.total)}` : "";
    const until = box.ended >= 0 ? box.ended : tree.now();
    return { name, count, time: Number.isFinite(began) ? seconds(until - began) : "" };
  }

  find(key) {
    return key ? this.picture.boxes.find((box) => box.key === key) : undefined;
  }

  boxAt(event) {
    return this.canvas.boxAt(this.picture, event.offsetX, event.offsetY);
  }

  select(box, back = false) {
    this.selected = this.canvas.selected = box ? box.key : "";
    if (box) {
      const { name, count, time } = this.label(box);
      this.spoken.say(`${name} ${count}, ${spokenCounts(box.counts)} ${time}`, true);
    } else if (back) {
      this.canvas.el.focus();
    }
    this.ask();
  }

  /** Open a box that stands for many siblings, or fold them again. */
  toggle(box) {
    if (!box?.group) return;
    this.opened.has(box.group) ? this.opened.delete(box.group) : this.opened.add(box.group);
    this.canvas.view.isFitted = true;
    this.ask();
  }

  fold() {
    this.folds = !this.folds;
    this.foldButton.setAttribute("aria-pressed", String(this.folds));
    this.fit();
  }

  fit() {
    this.canvas.view.isFitted = true;
    this.ask();
  }

  zoom(factor) {
    const { clientWidth: width, clientHeight: height } = this.canvas.el;
    this.canvas.zoom(factor, width / 2, height / 2);
    this.ask();
  }

  nextFailed() {
    const failed = this.picture.boxes.filter((box) => box.counts[FAILED]);
    // The deepest ones are where it began.
    failed.sort((a, b) => b.depth - a.depth || a.y - b.y);
    if (!failed.length) return;
    const at = failed.findIndex((box) => box.key === this.selected);
    const box = failed[(at + 1) % failed.length];
    this.canvas.reveal(box);
    this.select(box);
  }

  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.canvas.zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
    this.ask();
  }

  press(event) {
    const { el: canvas, view } = this.canvas;
    const from = [event.clientX, event.clientY];
    const start = [view.x, view.y];
    let moved = false;
    canvas.setPointerCapture(event.pointerId);
    const move = (to) => {
      const [x, y] = [to.clientX - from[0], to.clientY - from[1]];
      if (!moved && Math.hypot(x, y) < 4) return;
      moved = true;
      Object.assign(this.canvas.view, { x: start[0] + x, y: start[1] + y, isFitted: false });
      this.ask();
    };
    const release = (last) => {
      canvas.removeEventListener("pointermove", move);
      if (!moved) this.select(this.boxAt(last) ?? null);
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", release, { once: true });
  }

  hover(event) {
    const box = event.buttons ? undefined : this.boxAt(event);
    this.canvas.el.style.cursor = box ? "pointer" : "grab";
    const label = box && this.label(box);
    this.tip.textContent = label
      ? `${label.name} ${label.count} · ${spokenCounts(box.counts)}${label.time ? ` · ${label.time}` : ""}`
      : "";
  }

  key(event) {
    const { boxes } = this.picture;
    if (!boxes.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const box = this.find(this.selected);
    const beside = (step) => {
      const level = boxes.filter((one) => one.depth === box.depth).sort((a, b) => a.y - b.y);
      return level[level.indexOf(box) + step];
    };
    const moves = {
      Home: () => boxes[0],
      ArrowLeft: () => box?.parent,
      ArrowRight: () => (box ? box.kids[0] : boxes[0]),
      ArrowUp: () => (box ? beside(-1) : boxes[0]),
      ArrowDown: () => (box ? beside(1) : boxes[0]),
    };
    const acts = {
      Enter: () => this.toggle(box),
      Escape: () => this.select(null),
      f: () => this.nextFailed(),
      "+": () => this.zoom(1.3),
      "-": () => this.zoom(1 / 1.3),
    };
    if (!(event.key in moves) && !(event.key in acts)) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key in acts) {
      acts[event.key]();
      return;
    }
    const next = moves[event.key]();
    if (!next) return;
    this.canvas.reveal(next);
    this.select(next);
  }
}

export default overPicture(() => {
  const tree = new Tree();
  return {
    initialize({ model }) {
      model.on("msg:custom", (message, buffers) => {
        if (message.op === "tick") tree.tick(message, buffers);
      });
      model.send({ op: "hello" });
    },

    render({ model, el }) {
      const view = new View(model, el, tree);
      return () => view.close();
    },
  };
});
