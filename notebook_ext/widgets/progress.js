// The progress of a map: the front end's half of ProgressWidget, behind parts.js and strip.js.

const SEGMENTS = ["done", "failed", "cancelled", "running"];

/** The buttons of a map that runs. */
class Actions {
  constructor(model, title) {
    this.model = model;
    this.el = node("span", "nbx-actions");
    this.el.setAttribute("role", "group");
    this.el.setAttribute("aria-label", `Actions for ${title}`);
    this.pause = button(model, "Pause", () => ({ op: "pause", paused: !this.stats.paused }));
    this.retry = button(model, "Retry failed", () => ({ op: "retry" }));
    this.cancel = button(model, "Cancel", () => ({ op: "cancel" }));
    this.el.append(this.pause, this.retry, this.cancel);
  }

  /** Show what can be done now; return whether the focus was on what has gone. */
  show(stats) {
    this.stats = stats;
    const had = this.el.contains(document.activeElement);
    const hint = this.model.get("hint");
    this.el.hidden = !stats.controls;
    this.name(this.pause, stats.paused ? "Resume" : "Pause");
    this.name(this.retry, stats.retryable ? `Retry failed (${stats.retryable})` : "Retry failed");
    this.name(this.cancel, stats.ending ? "Cancelling…" : "Cancel");
    this.pause.hidden = !stats.can_pause;
    this.retry.hidden = !stats.failed || !stats.can_pause;
    const going = !stats.ending && !hint;
    able(this.pause, going, hint || "It is being cancelled");
    able(this.cancel, going, hint || "It is being cancelled");
    able(
      this.retry,
      going && stats.retryable > 0,
      hint || (stats.ending ? "It is being cancelled" : "Your code has had these failures already"),
    );
    return had && (this.el.hidden || document.activeElement.hidden);
  }

  name(made, label) {
    if (made.textContent !== label) made.textContent = label;
  }
}

/** Everything around the canvas: the numbers, the bar, the legend, the first error. */
class Panel {
  constructor(el, model) {
    const title = model.get("title");
    this.title = title;
    this.model = model;
    this.actions = new Actions(model, title);
    this.described = -Infinity;
    const head = node("div", "nbx-head");
    this.headline = node("span", "nbx-headline");
    this.percent = node("span", "nbx-percent");
    this.timing = node("span", "nbx-timing");
    head.append(node("span", "nbx-title", title), this.percent, this.headline, this.timing);
    head.append(this.actions.el);
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
    this.notice = node("div", "nbx-notice");
    this.spoken = new Spoken(15);
    this.parts = [head, this.bar, this.foot, this.waiting, this.error, this.notice, this.spoken.el];
    el.classList.add("nbx", "nbx-progress");
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
    this.reveal(this.notice, this.model.get("notice"));
    this.speak(stats, running);
    return this.actions.show(stats);
  }

  /** What a screen reader reads out: how it stands now and then, at once what has changed. */
  speak(stats, running) {
    if (!stats.state) return;
    const word = stats.ending ? "cancelling" : stats.paused ? "paused" : stats.state;
    const standing = running ? stats.percent || stats.headline : stats.state;
    const news = this.word !== undefined && this.word !== word;
    this.word = word;
    this.spoken.say(`${this.title}: ${standing}, ${stats.summary}`, news);
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
    const now = performance.now();
    if (stats.state === "running" && now < this.described + 1000) return;
    this.described = now; // readers that follow every change would speak without end
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

export default overPicture(() => {
  const strip = new Strip();
  return {
    initialize({ model }) {
      strip.restore(model);
      model.on("change:snapshot", () => strip.restore(model));
      model.on("change:stats", () => {
        const stats = model.get("stats");
        strip.then(() => {
          strip.stats = stats;
          strip.changed();
        });
      });
      model.on("msg:custom", (message, buffers) => {
        if (message.op === "tick") strip.tick(message, buffers[0]);
      });
    },

    render({ model, el }) {
      const panel = new Panel(el, model);
      const cells = new StripCanvas(el, strip);
      const [head, bar, ...below] = panel.parts;
      el.append(head, bar, cells.canvas, ...below);
      let asked = 0;
      const draw = () => {
        asked = 0;
        if (panel.show(strip.stats)) cells.canvas.focus();
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
      model.on("change:notice change:hint", ask);
      ask();
      return () => {
        panel.spoken.close();
        model.off("change:notice change:hint", ask);
        strip.views.delete(ask);
        resized.disconnect();
        themed();
        cancelAnimationFrame(asked);
      };
    },
  };
});
