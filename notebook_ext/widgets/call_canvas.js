// The canvas of a call graph: drawn, moved, zoomed and pointed at.
//
// Across and along have scales of their own, so that a tall tree fills the place that there is. A
// box is drawn as a card where that can be read, as a bar with its name, or as a bare bar.

const CARD_SCALE = 0.72; // cards below it could not be read
const BAR_HEIGHT = 9; // pixels: bars below it have no name
const LARGEST = 1.6;
const MARGIN = 14;
const IN_BAR = [FAILED, DONE, RUNNING, CANCELLED, WAITING];

class Canvas {
  constructor(place, labels) {
    this.el = place.appendChild(document.createElement("canvas"));
    this.el.tabIndex = 0;
    keepKeys(this.el);
    this.el.setAttribute("role", "application");
    this.el.setAttribute("aria-roledescription", "call graph");
    this.labels = labels;
    this.view = { across: 1, along: 1, x: 0, y: 0, isFitted: true };
    this.colours = null;
    this.selected = "";
  }

  fit(picture, width, height) {
    const across = Math.min(1, (width - 2 * MARGIN) / picture.width);
    const along = Math.min(1, (height - 2 * MARGIN) / picture.height);
    // What can be read in one piece keeps its shape.
    const both = Math.min(across, along);
    const isCard = both >= CARD_SCALE;
    const scales = isCard ? { across: both, along: both } : { across, along };
    const y = (height - picture.height * scales.along) / 2;
    this.view = { ...scales, x: MARGIN, y, isFitted: true };
  }

  zoom(factor, x, y) {
    const { view } = this;
    const limited = (scale) => Math.min(LARGEST, Math.max(0.0005, scale * factor));
    const [across, along] = [limited(view.across), limited(view.along)];
    this.view = {
      across,
      along,
      x: x - ((x - view.x) * across) / view.across,
      y: y - ((y - view.y) * along) / view.along,
      isFitted: false,
    };
  }

  /** Say where a box is drawn: its `left` and `top` in pixels; return its size, that of all. */
  place(box) {
    const { across, along, x, y } = this.view;
    box.left = box.x * across + x;
    box.top = box.y * along + y;
    return this.size();
  }

  size() {
    const { across, along } = this.view;
    return [Math.max(3, BOX.width * across), Math.max(1.5, BOX.height * along)];
  }

  boxAt(picture, x, y) {
    const [wide, high] = this.size();
    const slack = Math.max(0, (8 - high) / 2);
    return picture.boxes.find(
      ({ left, top }) =>
        x >= left && x <= left + wide && y >= top - slack && y <= top + high + slack,
    );
  }

  /** Move so that a box is in view, and readable. */
  reveal(box) {
    const { clientWidth: width, clientHeight: height } = this.el;
    if (this.view.along * BOX.height < BAR_HEIGHT) {
      Object.assign(this.view, { along: 0.8, across: Math.max(0.8, this.view.across) });
      Object.assign(this.view, { x: 0, y: 0, isFitted: false });
    }
    const [wide, high] = this.place(box);
    const { left, top } = box;
    const moves = { x: 0, y: 0 };
    if (left < MARGIN || left + wide > width - MARGIN) moves.x = (width - wide) / 2 - left;
    if (top < MARGIN || top + high > height - MARGIN) moves.y = (height - high) / 2 - top;
    if (!moves.x && !moves.y) return;
    this.view.x += moves.x;
    this.view.y += moves.y;
    this.view.isFitted = false;
  }

  palette() {
    if (this.colours) return this.colours;
    const style = getComputedStyle(this.el);
    const rgba = ([r, g, b, a]) => `rgba(${r}, ${g}, ${b}, ${a / 255})`;
    const names = [...STATES, "edge", "card", "border", "quiet"];
    const found = colours(this.el.parentElement, names).map(rgba);
    this.colours = {
      states: found.slice(0, STATES.length),
      edge: found[STATES.length],
      card: found[STATES.length + 1],
      border: found[STATES.length + 2],
      quiet: found[STATES.length + 3],
      text: style.color,
      font: style.fontFamily,
    };
    return this.colours;
  }

  draw(picture) {
    const { el } = this;
    const [width, height] = [el.clientWidth, el.clientHeight];
    const density = window.devicePixelRatio || 1;
    if (el.width !== Math.round(width * density) || el.height !== Math.round(height * density)) {
      el.width = Math.round(width * density);
      el.height = Math.round(height * density);
    }
    if (this.view.isFitted) this.fit(picture, width, height);
    const context = el.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    const { across, along, x, y } = this.view;
    for (const box of picture.boxes) {
      box.left = box.x * across + x;
      box.top = box.y * along + y;
    }
    this.drawEdges(context, picture, width, height);
    const isCard = Math.min(across, along) >= CARD_SCALE;
    const [wide, high] = this.size();
    for (const box of picture.boxes) {
      const { left, top } = box;
      if (left > width || left + wide < 0 || top > height || top + high < 0) continue;
      if (isCard) this.drawCard(context, picture, box);
      else this.drawBar(context, box, wide, high);
    }
  }

  drawEdges(context, picture, width, height) {
    const palette = this.palette();
    const curved = picture.edges.length < 3000;
    context.globalAlpha = curved ? 1 : 0.4;
    context.strokeStyle = palette.edge;
    context.lineWidth = curved ? Math.max(0.7, Math.min(1.4, 1.4 * this.view.along)) : 0.5;
    context.beginPath();
    const [wide, high] = this.size();
    for (const [from, to] of picture.edges) {
      const x1 = from.left + wide;
      const y1 = from.top + high / 2;
      const x2 = to.left;
      const y2 = to.top + high / 2;
      if ((x1 < 0 && x2 < 0) || (x1 > width && x2 > width)) continue;
      if ((y1 < 0 && y2 < 0) || (y1 > height && y2 > height)) continue;
      context.moveTo(x1, y1);
      const middle = (x1 + x2) / 2;
      if (curved) context.bezierCurveTo(middle, y1, middle, y2, x2, y2);
      else context.lineTo(x2, y2);
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  /** A box too small for a card: how its inputs stand, and its name where that can be read. */
  drawBar(context, box, wide, high) {
    const palette = this.palette();
    const { left, top } = box;
    const named = high >= BAR_HEIGHT && wide >= 34;
    if (named) {
      context.fillStyle = palette.card;
      context.fillRect(left, top, wide, high);
    }
    const under = named ? Math.max(2, Math.round(high * 0.2)) : high;
    let x = left;
    for (const state of IN_BAR) {
      if (!box.counts[state]) continue;
      const part = Math.max((wide * box.counts[state]) / box.total, Math.min(2, wide));
      context.fillStyle = palette.states[state];
      context.fillRect(x, top + high - under, Math.min(part, left + wide - x), under);
      x += part;
    }
    if (named) this.drawName(context, box, [left, top, wide, high - under]);
    if (high >= 20) {
      context.strokeStyle = palette.border;
      context.lineWidth = 1;
      context.strokeRect(left, top, wide, high);
    }
    if (box.key !== this.selected) return;
    context.strokeStyle = palette.text;
    context.lineWidth = 1.5;
    context.strokeRect(left - 2, top - 2, wide + 4, high + 4);
  }

  drawName(context, box, [left, top, wide, high]) {
    const palette = this.palette();
    const { name, count } = this.labels(box);
    const size = Math.min(11, Math.max(7.5, high * 0.8));
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.font = `${size}px ${palette.font}`;
    context.fillStyle = palette.states[box.state];
    context.fillText(GLYPHS[box.state], left + 2, top + high / 2 + 0.5);
    context.fillStyle = palette.text;
    const said = shortened(context, count ? `${name} ${count}` : name, wide - size - 6);
    context.fillText(said, left + size + 4, top + high / 2 + 0.5);
  }

  drawCard(context, picture, box) {
    const { across, along } = this.view;
    const scale = Math.min(across, along);
    const palette = this.palette();
    const state = palette.states[box.state];
    context.save();
    context.translate(box.left, box.top);
    context.scale(scale, scale);
    const shape = new Path2D();
    shape.roundRect(0, 0, BOX.width, BOX.height, 4);
    context.fillStyle = palette.card;
    context.fill(shape);
    context.save();
    context.clip(shape);
    if (box.state === RUNNING || box.state === FAILED) {
      context.globalAlpha = 0.1;
      context.fillStyle = state;
      context.fillRect(0, 0, BOX.width, BOX.height);
      context.globalAlpha = 1;
    }
    context.fillStyle = state;
    context.fillRect(0, 0, 4, BOX.height);
    const many = box.total > 1 || box.rows.length > 1;
    if (many) this.drawStrip(context, picture, box);
    context.restore();
    const isSelected = box.key === this.selected;
    context.strokeStyle = isSelected ? palette.states[RUNNING] : palette.border;
    context.lineWidth = isSelected ? 2 : 1;
    if (box.state === WAITING) context.setLineDash([3, 2]);
    context.stroke(shape);
    context.setLineDash([]);
    this.drawLabel(context, box, many ? 12 : BOX.height / 2);
    context.restore();
  }

  drawLabel(context, box, middle) {
    const palette = this.palette();
    const { name, count, time } = this.labels(box);
    context.textBaseline = "middle";
    context.fillStyle = palette.states[box.state];
    context.font = `600 12px ${palette.font}`;
    context.textAlign = "center";
    context.fillText(GLYPHS[box.state], 15, middle + 0.5);
    context.font = `11px ${palette.font}`;
    context.textAlign = "right";
    context.fillStyle = palette.quiet;
    const right = BOX.width - 8;
    context.fillText(time, right, middle + 0.5);
    const taken = time ? context.measureText(time).width + 6 : 0;
    const counted = count ? context.measureText(count).width + 5 : 0;
    context.font = `12px ${palette.font}`;
    context.textAlign = "left";
    context.fillStyle = palette.text;
    const shown = shortened(context, name, right - taken - counted - 25);
    context.fillText(shown, 25, middle + 0.5);
    if (!count) return;
    const after = 25 + context.measureText(shown).width + 5;
    context.font = `11px ${palette.font}`;
    context.fillStyle = palette.quiet;
    context.fillText(count, after, middle + 0.5);
  }

  drawStrip(context, picture, box) {
    const palette = this.palette();
    const [left, top, high] = [12, BOX.height - 11, 6];
    const wide = BOX.width - left - 8;
    const count = Math.min(box.total, Math.floor(wide / 2));
    if (!count) return;
    const step = wide / count;
    const gap = step >= 4 ? 1 : 0;
    picture.cells(box, count).forEach((state, i) => {
      context.globalAlpha = state === WAITING ? 0.45 : 1;
      context.fillStyle = palette.states[state];
      context.fillRect(left + i * step, top, step - gap, high);
    });
    context.globalAlpha = 1;
  }
}

function shortened(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let size = text.length;
  while (size > 1 && context.measureText(`${text.slice(0, size)}…`).width > room) size--;
  return `${text.slice(0, size)}…`;
}
