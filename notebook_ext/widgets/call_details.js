// What a call graph says of the selected box.

/** What is known of the selected box: one input of it at a time. */
class Details {
  constructor(ask, close) {
    this.ask = ask;
    this.el = node("div", "nbx-details");
    this.el.setAttribute("role", "region");
    this.el.setAttribute("aria-label", "Selected call");
    const head = this.el.appendChild(node("div", "nbx-details-head"));
    this.glyph = head.appendChild(node("span", "nbx-glyph"));
    this.glyph.setAttribute("aria-hidden", "true");
    this.name = head.appendChild(node("span", "nbx-name"));
    head.append(tool("×", "Close the details", close));
    this.counts = this.el.appendChild(node("div", "nbx-quiet"));
    this.chooser = this.el.appendChild(node("div", "nbx-chooser"));
    const label = this.chooser.appendChild(node("label", "", "Input "));
    this.position = label.appendChild(node("input", ""));
    Object.assign(this.position, { type: "number", min: 0 });
    keepKeys(this.position);
    this.position.addEventListener("change", () => this.choose(Number(this.position.value)));
    this.of = this.chooser.appendChild(node("span", "nbx-quiet"));
    this.next = tool("Next failed", "Show the next failed input", () =>
      this.choose(this.picture.nextFailed(this.box, Number(this.position.value))),
    );
    this.chooser.append(this.next);
    this.body = this.el.appendChild(node("div", "nbx-details-body"));
    this.body.tabIndex = 0;
    keepKeys(this.body);
    this.body.setAttribute("role", "region");
    this.body.setAttribute("aria-label", "What is known of it");
    this.box = null;
    this.asked = "";
  }

  /** Show a box, or (null) nothing. */
  show(picture, box, label) {
    this.picture = picture;
    const isNew = box?.key !== this.box?.key;
    this.box = box;
    this.el.hidden = !box;
    if (!box) {
      this.asked = "";
      return;
    }
    this.el.className = `nbx-details nbx-is-${STATES[box.state]}`;
    this.glyph.textContent = GLYPHS[box.state];
    this.name.textContent = label.name;
    this.name.title = label.name;
    const calls = box.rows.length > 1 ? `${number(box.rows.length)} calls · ` : "";
    const took = label.time ? ` · ${label.time}` : "";
    this.counts.textContent = `${calls}${spokenCounts(box.counts)}${took}`;
    this.chooser.hidden = box.total < 2;
    this.position.max = Math.max(0, box.total - 1);
    this.of.textContent = `of ${number(box.total)}`;
    this.next.hidden = !box.counts[FAILED];
    if (isNew) this.choose(Math.max(0, box.counts[FAILED] ? picture.nextFailed(box, -1) : 0));
    else this.refresh();
  }

  choose(position) {
    const last = Math.max(0, this.box.total - 1);
    const valid = Number.isFinite(position) ? Math.min(last, Math.max(0, Math.floor(position))) : 0;
    this.position.value = valid;
    this.asked = "";
    this.body.replaceChildren(node("div", "nbx-quiet", "…"));
    this.refresh();
  }

  /** Ask again where the chosen input stands otherwise than when it was asked. */
  refresh() {
    const [row, index] = this.picture.inputAt(this.box, Number(this.position.value));
    const wanted = `${row}/${index}/${this.picture.tree.stateOf(row, index)}`;
    if (wanted === this.asked) return;
    this.asked = wanted;
    this.ask(row, index);
  }

  /** Take in what the kernel found. */
  told(message) {
    const [row, index] = this.asked.split("/").map(Number);
    if (!this.box || message.row !== row || message.index !== index) return;
    const parts = [];
    const list = node("dl", "");
    for (const [name, value] of message.facts) {
      list.append(node("dt", "", name), node("dd", "", value));
    }
    parts.push(list);
    for (const [heading, text] of message.texts) {
      const block = node("details", "nbx-text");
      block.open = true;
      block.append(node("summary", "", heading), node("pre", "", text));
      parts.push(block);
    }
    this.body.replaceChildren(...parts);
  }
}
