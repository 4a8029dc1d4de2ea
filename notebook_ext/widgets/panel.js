// The dashboard, and the pool widget, which is a part of it. The kernel sends rows that have
// changed, by section and key; each place on the page keeps its elements and brings them up to date.

const SEEN_SECONDS = 5;

/** What the kernel said of the broker: rows by section and key, and the past of each pool. */
class Board {
  constructor() {
    this.views = new Set();
    this.sections = {};
    this.history = new Map();
    this.clock = [0, 0];
    this.problem = "";
    this.known = false;
  }

  now() {
    return this.clock[0] + (performance.now() - this.clock[1]) / 1000;
  }

  rows(section) {
    return [...(this.sections[section]?.values() ?? [])];
  }

  tick(message) {
    if (message.whole) {
      this.sections = {};
      this.history.clear();
    }
    this.known = true;
    this.problem = message.problem;
    this.clock = [message.now, performance.now()];
    for (const [section, rows] of Object.entries(message.changed)) {
      const known = (this.sections[section] ??= new Map());
      for (const row of rows) known.set(row.id, row);
    }
    for (const [section, keys] of Object.entries(message.gone)) {
      for (const key of keys) this.sections[section]?.delete(key);
    }
    this.remember(message.samples, message.now);
    this.views.forEach((ask) => ask());
  }

  remember(samples, now) {
    for (const [pool, added] of Object.entries(samples)) {
      const known = this.history.get(pool) ?? [];
      known.push(...added);
      while (known.length > 1 && known[1][0] < now - HISTORY_SECONDS) known.shift();
      this.history.set(pool, known);
    }
    for (const pool of this.history.keys()) {
      if (!this.sections.pools?.has(pool)) this.history.delete(pool);
    }
  }
}

/** One worker of a pool, as a row of a table. */
class WorkerRow {
  constructor(model, board) {
    this.board = board;
    this.el = node("tr", "");
    const head = this.el.appendChild(node("th", ""));
    head.scope = "row";
    this.dot = head.appendChild(node("span", "nbx-dot"));
    this.name = head.appendChild(node("span", "nbx-code"));
    this.cells = ["state", "since", "memory", "start", "pid"].map((kind) =>
      this.el.appendChild(node("td", `nbx-cell-${kind}`)),
    );
    const acts = this.el.appendChild(node("td", "nbx-acts"));
    this.stop = button(model, "Stop", () => ({ op: "stop", worker: this.row.id }));
    this.attach = button(model, "Attach", () => ({ op: "attach", worker: this.row.id }));
    acts.append(this.attach, this.stop);
  }

  show(row) {
    this.row = row;
    this.dot.className = `nbx-dot nbx-is-${row.state}`;
    say(this.name, row.id);
    const [state, since, memory, start, pid] = this.cells;
    say(state, STATE_WORDS[row.state] ?? row.state);
    say(since, row.since ? duration(this.board.now() - row.since) : "");
    say(memory, [mebibytes(row.memory), row.devices].filter(Boolean).join(" · "));
    say(start, row.start.split(":")[0]);
    start.title = row.start;
    say(pid, row.pid ? String(row.pid) : "");
    this.stop.hidden = this.attach.hidden = row.state === "stopping";
    this.stop.setAttribute("aria-label", `Stop worker ${row.id}`);
    this.attach.setAttribute("aria-label", `Attach to worker ${row.id}`);
  }
}

/** One function's pool: a line, and below it, opened, its past, its settings and its workers. */
class PoolCard {
  constructor(model, board, isOpen) {
    this.model = model;
    this.board = board;
    this.el = node("section", "nbx-card");
    const head = this.el.appendChild(node("div", "nbx-card-head"));
    this.toggle = head.appendChild(node("button", "nbx-toggle"));
    this.toggle.type = "button";
    this.toggle.addEventListener("click", () => this.open(!this.isOpen));
    keepKeys(this.toggle);
    this.arrow = this.toggle.appendChild(node("span", "nbx-arrow", "▸"));
    this.arrow.setAttribute("aria-hidden", "true");
    this.name = this.toggle.appendChild(node("span", "nbx-name"));
    this.app = head.appendChild(node("span", "nbx-quiet"));
    this.squares = head.appendChild(node("span", "nbx-squares"));
    this.squares.setAttribute("aria-hidden", "true");
    this.counts = head.appendChild(node("span", "nbx-counts"));
    this.backlog = head.appendChild(node("span", "nbx-backlog"));
    this.body = this.el.appendChild(node("div", "nbx-card-body"));
    this.chart = new Chart();
    this.waiting = node("div", "nbx-waiting nbx-is-busy");
    this.body.append(this.chart.el, this.waiting, this.settings(), this.table());
    this.open(isOpen);
  }

  settings() {
    const place = node("div", "nbx-settings");
    const set = (name) => (value) => this.model.send({ op: "configure", pool: this.row.id, [name]: value });
    this.min = new Slider("Min", "workers kept warm", set("min"));
    this.max = new Slider("Max", "the most workers", set("max"));
    this.buffer = new Slider("Buffer", "spare workers while calls are open", set("buffer"));
    this.start = button(this.model, "Start a worker", () => ({ op: "start", pool: this.row.id }));
    this.start.title = "Keep one worker more warm";
    place.append(this.min.el, this.max.el, this.buffer.el, this.start);
    return place;
  }

  table() {
    this.none = node("div", "nbx-quiet nbx-none", "No workers now: the next call starts them.");
    this.workers = node("table", "nbx-table");
    this.caption = this.workers.appendChild(node("caption", "nbx-spoken"));
    const head = this.workers.appendChild(node("thead", "")).appendChild(node("tr", ""));
    for (const title of ["Worker", "State", "Since", "Memory", "Start", "Pid", "Actions"]) {
      const cell = head.appendChild(node("th", ""));
      cell.scope = "col";
      cell.append(title === "Actions" ? node("span", "nbx-spoken", title) : title);
    }
    const body = this.workers.appendChild(node("tbody", ""));
    this.rows = new Keyed(body, () => new WorkerRow(this.model, this.board));
    const place = node("div", "nbx-scroll");
    place.append(this.none, this.workers);
    return place;
  }

  open(isOpen) {
    this.isOpen = isOpen;
    this.toggle.setAttribute("aria-expanded", String(isOpen));
    this.el.classList.toggle("nbx-open", isOpen);
    this.body.hidden = !isOpen;
    if (isOpen && this.row) this.showBody(this.row);
  }

  show(row) {
    this.row = row;
    say(this.name, row.name);
    say(this.app, [row.app, row.old ? "older version" : "", row.resources].filter(Boolean).join(" · "));
    this.workersNow = this.board.rows("workers").filter((worker) => worker.pool === row.id);
    this.showSquares();
    const counts = WORKER_STATES.map((state) => [
      state,
      this.workersNow.filter((worker) => worker.state === state).length,
    ]);
    const words = counts.filter(([, count]) => count).map(([state, count]) => `${count} ${STATE_WORDS[state]}`);
    say(this.counts, words.join(" · ") || "no workers");
    say(this.backlog, row.backlog ? `${number(row.backlog)} waiting` : "");
    this.backlog.hidden = !row.backlog;
    if (this.isOpen) this.showBody(row);
  }

  showSquares() {
    const shown = this.workersNow.slice(0, 40);
    const order = (worker) => WORKER_STATES.indexOf(worker.state);
    shown.sort((a, b) => order(a) - order(b));
    while (this.squares.childElementCount < shown.length) this.squares.append(node("i", "nbx-dot"));
    while (this.squares.childElementCount > shown.length) this.squares.lastChild.remove();
    shown.forEach((worker, i) => (this.squares.children[i].className = `nbx-dot nbx-is-${worker.state}`));
  }

  showBody(row) {
    this.chart.show(this.board.history.get(row.id) ?? [], this.board.now());
    this.waiting.hidden = !row.waiting;
    say(this.waiting, row.waiting ? `waits: ${row.waiting}` : "");
    const most = Math.max(row.capacity, row.min, row.max ?? 0, row.buffer, 4);
    this.min.show(row.min, 0, most);
    this.max.show(row.max, 1, most);
    this.buffer.show(row.buffer, 0, Math.max(4, row.buffer));
    say(this.caption, `Workers of ${row.name}`);
    this.workers.hidden = !this.workersNow.length;
    this.none.hidden = Boolean(this.workersNow.length);
    this.rows.show(this.workersNow);
  }
}

/** One machine. */
class HostCard {
  constructor() {
    this.el = node("div", "nbx-host");
    const head = this.el.appendChild(node("div", "nbx-host-head"));
    this.name = head.appendChild(node("span", "nbx-code"));
    this.workers = head.appendChild(node("span", "nbx-quiet"));
    this.bar = new Bar(["busy"]);
    this.facts = node("div", "nbx-quiet");
    this.el.append(this.bar.el, this.facts);
  }

  show(row) {
    say(this.name, row.id);
    say(this.workers, plural(row.workers, "worker"));
    const said = `${row.used} of ${row.cores} cores in use`;
    this.bar.show([row.used], row.cores, said);
    say(this.facts, [said, row.memory, row.devices].filter(Boolean).join(" · "));
  }
}

const CALL_STATES = ["failed", "done", "running", "cancelled"];
const CALL_GLYPHS = { pending: "○", running: "▶", succeeded: "✓", failed: "✕", cancelled: "–", expired: "–" };
const CALL_KINDS = { pending: "waiting", running: "running", succeeded: "done", failed: "failed", cancelled: "cancelled", expired: "cancelled" };

/** One call, as a row of a table. */
class CallRow {
  constructor(model, board) {
    this.board = board;
    this.el = node("tr", "");
    const head = this.el.appendChild(node("th", ""));
    head.scope = "row";
    this.glyph = head.appendChild(node("span", "nbx-glyph"));
    this.glyph.setAttribute("aria-hidden", "true");
    this.name = head.appendChild(node("span", "nbx-name"));
    this.id = this.el.appendChild(node("td", "nbx-code nbx-id"));
    this.state = this.el.appendChild(node("td", ""));
    this.bar = new Bar(CALL_STATES);
    this.el.appendChild(node("td", "nbx-cell-bar")).append(this.bar.el);
    this.counts = this.el.appendChild(node("td", "nbx-number"));
    this.age = this.el.appendChild(node("td", "nbx-cell-since"));
    const acts = this.el.appendChild(node("td", "nbx-acts"));
    this.graph = button(model, "Graph", () => ({ op: "graph", call: this.row.id }));
    this.cancel = button(model, "Cancel", () => ({ op: "cancel", call: this.row.id }));
    acts.append(this.graph, this.cancel);
  }

  show(row) {
    this.row = row;
    this.el.className = `nbx-is-${CALL_KINDS[row.state]}`;
    say(this.glyph, CALL_GLYPHS[row.state] ?? "");
    say(this.name, row.name);
    say(this.id, row.id);
    say(this.state, row.state);
    const counts = [row.failed, row.succeeded, row.running, row.cancelled];
    const words = counts.map((count, i) => (count ? `${number(count)} ${CALL_STATES[i]}` : ""));
    this.bar.show(counts, row.total, words.filter(Boolean).join(", ") || "nothing has started");
    const ended = row.failed + row.succeeded + row.cancelled;
    say(this.counts, `${number(ended)} / ${number(row.total)}`);
    say(this.age, duration((row.ended ?? this.board.now()) - row.made));
    this.cancel.hidden = row.state !== "pending" && row.state !== "running";
    this.cancel.setAttribute("aria-label", `Cancel ${row.name} ${row.id}`);
    this.graph.setAttribute("aria-label", `Show the graph of ${row.name} ${row.id}`);
  }
}

/** A function that is called by itself, and when the next time. */
class ScheduleRow {
  constructor(board) {
    this.board = board;
    this.el = node("div", "nbx-schedule");
    this.name = this.el.appendChild(node("span", "nbx-name"));
    this.about = this.el.appendChild(node("span", "nbx-quiet"));
  }

  show(row) {
    const then = row.next === null ? "never again" : `next in ${duration(Math.max(0, row.next - this.board.now()))}`;
    say(this.name, row.name);
    say(this.about, ` ${row.app} · ${row.schedule} · ${then}`);
  }
}

/** A heading and what is below it; hidden where the widget does not show this section. */
function section(place, title) {
  const made = place.appendChild(node("div", "nbx-section"));
  const heading = made.appendChild(node("h4", "nbx-heading", title));
  return [made, heading];
}

/** One place where the board is shown. */
class View {
  constructor(model, el, board) {
    this.model = model;
    this.board = board;
    el.classList.add("nbx", "nbx-panel");
    this.isWhole = model.get("sections") === "all";
    this.head = el.appendChild(node("div", "nbx-head"));
    this.title = this.head.appendChild(node("span", "nbx-title", model.get("title")));
    this.about = this.head.appendChild(node("span", "nbx-quiet"));
    this.problem = el.appendChild(node("div", "nbx-problem"));
    this.notice = el.appendChild(node("div", "nbx-notice"));
    this.notice.setAttribute("role", "status");
    if (this.isWhole) this.addHosts(el);
    this.addPools(el);
    if (this.isWhole) this.addSchedules(el);
    if (this.isWhole) this.addCalls(el);
    this.listen();
  }

  addHosts(el) {
    const [place] = section(el, "Hosts");
    this.hosts = new Keyed(place.appendChild(node("div", "nbx-hosts")), () => new HostCard());
  }

  addPools(el) {
    const [place, heading] = section(el, "Functions");
    heading.hidden = !this.isWhole;
    const { model, board, isWhole } = this;
    const cards = place.appendChild(node("div", ""));
    this.pools = new Keyed(cards, () => new PoolCard(model, board, !isWhole));
    this.noPools = place.appendChild(node("div", "nbx-quiet nbx-none"));
  }

  addSchedules(el) {
    [this.scheduled] = section(el, "Schedules");
    const rows = this.scheduled.appendChild(node("div", ""));
    this.schedules = new Keyed(rows, () => new ScheduleRow(this.board));
  }

  addCalls(el) {
    const [place] = section(el, "Calls");
    const scroll = place.appendChild(node("div", "nbx-scroll"));
    this.table = scroll.appendChild(node("table", "nbx-table nbx-calls"));
    this.table.appendChild(node("caption", "nbx-spoken", "Recent calls, newest first"));
    const head = this.table.appendChild(node("thead", "")).appendChild(node("tr", ""));
    for (const title of ["Function", "Call", "State", "Inputs", "Ended", "Time", "Actions"]) {
      const cell = head.appendChild(node("th", ""));
      cell.scope = "col";
      cell.append(title === "Actions" ? node("span", "nbx-spoken", title) : title);
    }
    const body = this.table.appendChild(node("tbody", ""));
    this.calls = new Keyed(body, () => new CallRow(this.model, this.board));
    this.noCalls = place.appendChild(node("div", "nbx-quiet nbx-none", "No calls."));
  }

  listen() {
    const ask = () => this.ask();
    this.board.views.add(ask);
    const noticed = () => say(this.notice, this.model.get("notice") ?? "");
    this.model.on("change:notice", noticed);
    noticed();
    const clock = setInterval(ask, 1000);
    const seen = setInterval(() => this.tellSeen(), SEEN_SECONDS * 1000);
    this.tellSeen();
    this.close = () => {
      this.board.views.delete(ask);
      this.model.off("change:notice", noticed);
      clearInterval(clock);
      clearInterval(seen);
      cancelAnimationFrame(this.asked);
    };
    this.ask();
  }

  /** While nobody says so the kernel does not ask the broker for what it would show. */
  tellSeen() {
    if (!document.hidden && this.head.isConnected) this.model.send({ op: "seen" });
  }

  ask() {
    this.asked ||= requestAnimationFrame(() => {
      this.asked = 0;
      this.draw();
    });
  }

  draw() {
    const { board } = this;
    const [broker] = board.rows("broker");
    say(this.about, broker ? this.broker(broker) : "");
    say(this.problem, board.problem);
    this.problem.hidden = !board.problem;
    const pools = board.rows("pools");
    pools.sort((a, b) => a.old - b.old || a.name.localeCompare(b.name) || a.id.localeCompare(b.id));
    this.pools.show(pools);
    say(this.noPools, board.known && !board.problem && !pools.length ? "No function has workers or work." : "");
    if (!this.isWhole) return;
    this.hosts.show(board.rows("hosts"));
    const schedules = board.rows("schedules");
    this.schedules.show(schedules);
    this.scheduled.hidden = !schedules.length;
    const calls = board.rows("calls").sort((a, b) => b.made - a.made);
    this.calls.show(calls);
    this.table.hidden = !calls.length;
    this.noCalls.hidden = Boolean(calls.length);
  }

  broker(row) {
    const age = duration(this.board.now() - row.started);
    if (!this.isWhole) return "";
    return `broker ${row.version} · pid ${row.pid} · up ${age} · ${plural(row.clients, "client")}`;
  }
}

export default overPicture(() => {
  const board = new Board();
  return {
    initialize({ model }) {
      model.on("msg:custom", (message) => {
        if (message.op === "tick") board.tick(message);
      });
      model.send({ op: "hello" });
    },

    render({ model, el }) {
      const view = new View(model, el, board);
      return () => view.close();
    },
  };
});
