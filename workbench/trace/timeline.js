// The timeline on a canvas: one renderer for the live widget and for self-contained pages.
//
// Events come as columns in one binary buffer and are kept per rank, sorted by start. Drawing
// happens only in requestAnimationFrame when something has changed, so a slow browser drops
// frames and never queues them. Where a pixel would hold several events, the row shows the
// share of time at work, not the last event's colour.

const ROW = 30, WAIT = 6, GAP = 8, LEFT = 64, AXIS = 22, TOP = 4;
const MOST_EVENTS = 400000; // kept per view; the oldest half goes when they are exceeded
const DENSE = 1.5; // fewer pixels per event than this: draw the busy share

const STYLE = `
.wb-timeline { font: 12px/1.4 var(--jp-ui-font-family, system-ui, sans-serif);
  color: var(--wb-ink); background: var(--wb-paper); padding: 6px; position: relative; }
.wb-timeline canvas { width: 100%; display: block; outline-offset: 2px; cursor: grab; }
.wb-timeline .wb-bar { display: flex; gap: 6px; align-items: center; flex-wrap: wrap; }
.wb-timeline .wb-title { font-weight: 600; margin-right: auto; }
.wb-timeline .wb-source { border: 1px solid currentColor; border-radius: 3px; padding: 0 5px; }
.wb-timeline button { font: inherit; color: inherit; background: transparent;
  border: 1px solid currentColor; border-radius: 3px; padding: 1px 7px; cursor: pointer; }
.wb-timeline button[aria-pressed="true"] { background: #0072B2; color: #fff; }
.wb-timeline .wb-tip { position: absolute; pointer-events: none; display: none; padding: 3px 7px;
  background: var(--wb-ink); color: var(--wb-paper); border-radius: 3px; white-space: pre; }
.wb-timeline .wb-key { display: inline-flex; gap: 3px; align-items: center; }
.wb-timeline .wb-key i { width: 11px; height: 11px; display: inline-block; border: 1px solid #222; }
`;

const KINDS = ["F", "I", "W", "B", "R", "SEND_F", "RECV_F", "SEND_B", "RECV_B", "REDUCE_GRAD",
  "OPT_STEP", "UNSHARD", "RESHARD", "OFFLOAD", "RELOAD"];
const SHORT = { REDUCE_GRAD: "G", OPT_STEP: "O" };

// ---- events ------------------------------------------------------------------------------

class Lane { // one rank's events of one kind of lane, sorted by start
  constructor() { this.n = 0; this.grow(1024); }
  grow(size) {
    const old = this.n ? this : null;
    const next = { start: new Float64Array(size), end: new Float64Array(size),
      step: new Int32Array(size), microbatch: new Int16Array(size),
      stage: new Int16Array(size), kind: new Uint8Array(size) };
    for (const name in next) {
      if (old) next[name].set(this[name].subarray(0, this.n));
      this[name] = next[name];
    }
  }
  push(start, end, step, microbatch, stage, kind) {
    if (this.n === this.start.length) this.grow(2 * this.n);
    const i = this.n++;
    this.start[i] = start; this.end[i] = end; this.step[i] = step;
    this.microbatch[i] = microbatch; this.stage[i] = stage; this.kind[i] = kind;
  }
  forget(count) {
    for (const name of ["start", "end", "step", "microbatch", "stage", "kind"])
      this[name].copyWithin(0, count, this.n);
    this.n -= count;
  }
  first(time) { // index of the first event that ends after `time`
    let low = 0, high = this.n;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.end[middle] > time) high = middle; else low = middle + 1;
    }
    return low;
  }
}

// One buffer: start f64, duration f32, step i32, microbatch i16, stage i16, rank i16,
// kind u8, lane u8; each a column of n.
function decode(buffer, n) {
  const bytes = buffer instanceof ArrayBuffer ? buffer.slice(0)
    : buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength);
  let at = 0;
  const take = (Type, size) => { const c = new Type(bytes, at, n); at += n * size; return c; };
  return { start: take(Float64Array, 8), duration: take(Float32Array, 4),
    step: take(Int32Array, 4), microbatch: take(Int16Array, 2), stage: take(Int16Array, 2),
    rank: take(Int16Array, 2), kind: take(Uint8Array, 1), lane: take(Uint8Array, 1) };
}

function actionText(lane, i) {
  const kind = KINDS[lane.kind[i]];
  const mb = lane.microbatch[i];
  return `${lane.stage[i]}${kind}${mb < 0 ? "" : mb}`;
}

// ---- theme -------------------------------------------------------------------------------

function theme(element) {
  const read = (name) => getComputedStyle(element).getPropertyValue(name).trim();
  let paper = read("--jp-layout-color0") || read("--vscode-editor-background");
  let ink = read("--jp-ui-font-color1") || read("--vscode-editor-foreground");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  paper = paper || (dark ? "#111" : "#fff");
  ink = ink || (dark ? "#ddd" : "#222");
  return { paper, ink };
}

function duration(seconds, unit) {
  if (unit !== "s") return `${+seconds.toPrecision(5)} ${unit}`;
  const size = Math.abs(seconds);
  if (size >= 1 || size === 0) return `${+seconds.toPrecision(5)} s`;
  if (size >= 1e-3) return `${+(seconds * 1e3).toPrecision(4)} ms`;
  return `${+(seconds * 1e6).toPrecision(4)} us`;
}

// ---- the view ----------------------------------------------------------------------------

export class Timeline {
  constructor(root, options) {
    this.options = options; // { ranks, title, source, unit, colours, wait }
    this.root = root;
    this.reset();
    this.from = 0; this.to = 1; this.follow = true; this.span = 0;
    this.frames = 0; this.dirty = false; this.dead = false;
    this.build();
    this.listen();
    this.setState(options.state || "waiting");
    this.invalidate();
  }

  reset() {
    this.compute = []; this.waits = []; this.total = 0;
    for (let r = 0; r < this.options.ranks; r++) {
      this.compute.push(new Lane()); this.waits.push(new Lane());
    }
    this.low = Infinity; this.high = -Infinity;
  }

  element(tag, name, text, parent) {
    const e = document.createElement(tag);
    if (name) e.className = name;
    if (text) e.textContent = text;
    (parent || this.box).appendChild(e);
    return e;
  }

  build() {
    this.box = document.createElement("div");
    this.box.className = "wb-timeline";
    this.box.dataset.testid = "wb-timeline";
    this.root.appendChild(this.box);
    this.element("style", "", STYLE);
    const bar = this.element("div", "wb-bar");
    this.element("span", "wb-title", this.options.title, bar);
    this.element("span", "wb-source", this.options.source, bar);
    for (const kind of this.options.kinds || ["F", "B", "W"]) {
      const key = this.element("span", "wb-key", "", bar);
      this.element("i", "", "", key).style.background = this.options.colours[kind];
      this.element("span", "", kind === "B" ? "B/I" : kind, key);
    }
    const button = (text, label, act) => {
      const b = this.element("button", "", text, bar);
      b.title = label; b.setAttribute("aria-label", label); b.type = "button";
      b.addEventListener("click", act);
      return b;
    };
    button("-", "zoom out (S)", () => this.zoom(1.5));
    button("+", "zoom in (W)", () => this.zoom(1 / 1.5));
    button("all", "show everything", () => this.fit());
    this.followButton = button("follow", "follow the newest events (F)", () => {
      this.setFollow(!this.follow);
    });
    this.canvas = this.element("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.text = this.element("div", "wb-summary", "waiting for the first step");
    this.text.setAttribute("role", "status");
    this.tip = this.element("div", "wb-tip");
    this.setFollow(true);
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      this.zoom(Math.exp(e.deltaY * 0.0015), this.timeAt(e.offsetX));
    }, { passive: false });
    let drag = null;
    canvas.addEventListener("pointerdown", (e) => {
      drag = { x: e.clientX, from: this.from, to: this.to };
      canvas.setPointerCapture(e.pointerId);
    });
    canvas.addEventListener("pointermove", (e) => {
      if (!drag) return this.hover(e.offsetX, e.offsetY);
      const shift = (drag.x - e.clientX) * (drag.to - drag.from) / this.plotWidth();
      this.setFollow(false);
      this.look(drag.from + shift, drag.to + shift);
    });
    canvas.addEventListener("pointerup", () => { drag = null; });
    canvas.addEventListener("pointerleave", () => { this.tip.style.display = "none"; });
    canvas.addEventListener("keydown", (e) => this.key(e));
    this.resize = new ResizeObserver(() => this.invalidate());
    this.resize.observe(this.box);
    this.themes = new MutationObserver(() => this.invalidate());
    this.themes.observe(document.body, { attributes: true });
    this.media = matchMedia("(prefers-color-scheme: dark)");
    this.onMedia = () => this.invalidate();
    this.media.addEventListener("change", this.onMedia);
  }

  destroy() {
    this.dead = true;
    this.resize.disconnect(); this.themes.disconnect();
    this.media.removeEventListener("change", this.onMedia);
  }

  key(e) {
    const step = 0.1 * (this.to - this.from);
    const acts = {
      w: () => this.zoom(1 / 1.3), s: () => this.zoom(1.3), f: () => this.setFollow(!this.follow),
      a: () => this.pan(-step), d: () => this.pan(step),
      ArrowLeft: () => this.pan(-step), ArrowRight: () => this.pan(step),
    };
    const act = acts[e.key] || acts[e.key.toLowerCase()];
    if (!act || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault(); e.stopPropagation();
    act();
  }

  // ---- data ----

  append(columns) {
    const n = columns.start.length;
    for (let i = 0; i < n; i++) {
      const rank = columns.rank[i];
      if (rank < 0 || rank >= this.compute.length) continue;
      const start = columns.start[i], end = start + columns.duration[i];
      const lanes = columns.lane[i] === 1 ? this.waits : this.compute;
      lanes[rank].push(start, end, columns.step[i], columns.microbatch[i], columns.stage[i],
        columns.kind[i]);
      if (start < this.low) this.low = start;
      if (end > this.high) this.high = end;
    }
    this.total += n;
    if (this.total > MOST_EVENTS) this.trim();
    if (this.follow) this.toEdge();
    this.box.dataset.events = String(this.total);
    this.invalidate();
  }

  trim() {
    this.total = 0; this.low = Infinity;
    for (const lane of [...this.compute, ...this.waits]) {
      lane.forget(lane.n >> 1);
      this.total += lane.n;
      if (lane.n) this.low = Math.min(this.low, lane.start[0]);
    }
  }

  setState(state) { this.box.dataset.state = state; }

  setText(text) {
    this.text.textContent = text;
    this.canvas.setAttribute("aria-label",
      `Timeline of ${this.options.ranks} ranks, ${this.options.source}. ${text}`);
  }

  // ---- looking ----

  plotWidth() { return Math.max(1, this.canvas.clientWidth - LEFT - 4); }
  timeAt(x) { return this.from + (x - LEFT) * (this.to - this.from) / this.plotWidth(); }

  look(from, to) {
    this.from = from; this.to = to;
    this.invalidate();
  }

  zoom(factor, around) {
    const centre = around === undefined ? (this.from + this.to) / 2 : around;
    if (this.follow) this.setFollow(false);
    this.look(centre - (centre - this.from) * factor, centre + (this.to - centre) * factor);
  }

  pan(shift) { this.setFollow(false); this.look(this.from + shift, this.to + shift); }

  fit() {
    this.setFollow(false);
    if (this.high > this.low) this.look(this.low, this.high);
  }

  setFollow(on) {
    this.follow = on;
    this.followButton.setAttribute("aria-pressed", String(on));
    if (on) this.toEdge();
  }

  toEdge() { // the last three steps, or all there is
    if (!(this.high > this.low)) return;
    let newest = -1;
    for (const lane of this.compute) if (lane.n) newest = Math.max(newest, lane.step[lane.n - 1]);
    let from = Infinity;
    for (const lane of this.compute) {
      let i = lane.n;
      while (i > 0 && lane.step[i - 1] > newest - 3) i--;
      if (i < lane.n) from = Math.min(from, lane.start[i]);
    }
    this.look(from === Infinity ? this.low : from, this.high);
  }

  // ---- drawing ----

  invalidate() {
    if (this.dirty || this.dead) return;
    this.dirty = true;
    requestAnimationFrame(() => { this.dirty = false; if (!this.dead) this.draw(); });
  }

  draw() {
    const { paper, ink } = theme(this.root);
    this.box.style.setProperty("--wb-paper", paper);
    this.box.style.setProperty("--wb-ink", ink);
    const width = this.box.clientWidth - 12, ranks = this.options.ranks;
    if (width <= 0) return;
    const height = TOP + ranks * (ROW + WAIT + GAP) + AXIS;
    const ratio = window.devicePixelRatio || 1;
    const canvas = this.canvas, pen = canvas.getContext("2d");
    canvas.style.height = `${height}px`;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = paper; pen.fillRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    for (let r = 0; r < ranks; r++) this.drawRank(pen, r, ink);
    this.axis(pen, width, height, ink);
    this.frames++;
    this.box.dataset.frames = String(this.frames);
  }

  drawRank(pen, rank, ink) {
    const y = TOP + rank * (ROW + WAIT + GAP), plot = this.plotWidth();
    pen.fillStyle = ink; pen.textAlign = "left";
    pen.fillText(`rank ${rank}`, 4, y + ROW / 2);
    pen.globalAlpha = 0.08;
    pen.fillRect(LEFT, y, plot, ROW);
    pen.globalAlpha = 1;
    pen.save();
    pen.beginPath(); pen.rect(LEFT, y, plot, ROW + WAIT); pen.clip();
    this.drawLane(pen, this.compute[rank], y, ROW, true, ink);
    this.drawLane(pen, this.waits[rank], y + ROW, WAIT, false, ink);
    pen.restore();
  }

  drawLane(pen, lane, y, height, labels, ink) {
    const first = lane.first(this.from), plot = this.plotWidth();
    let last = first;
    const scale = plot / (this.to - this.from);
    let low = first, high = lane.n; // events that start before the window's end
    while (low < high) {
      const middle = (low + high) >> 1;
      if (lane.start[middle] < this.to) low = middle + 1; else high = middle;
    }
    last = low;
    const count = last - first;
    if (!count) return;
    const stretch = (Math.min(lane.end[last - 1], this.to) - Math.max(lane.start[first], this.from));
    if (count * DENSE > Math.max(1, stretch * scale))
      return this.drawShare(pen, lane, first, last, y, height, scale, labels ? null : ink);
    for (let i = first; i < last; i++) {
      const x = LEFT + (lane.start[i] - this.from) * scale;
      const w = Math.max(0.5, (lane.end[i] - lane.start[i]) * scale);
      const kind = KINDS[lane.kind[i]];
      if (!labels) {
        pen.fillStyle = ink; pen.globalAlpha = 0.3;
        pen.fillRect(x, y + 1, w, height - 2);
        pen.globalAlpha = 1;
        continue;
      }
      pen.fillStyle = this.options.colours[kind] || this.options.wait;
      pen.fillRect(x, y, w, height);
      if (w > 3) { pen.strokeStyle = "#222"; pen.lineWidth = 0.5; pen.strokeRect(x, y, w, height); }
      if (w > 26 && lane.microbatch[i] >= 0) {
        pen.fillStyle = "#000"; pen.textAlign = "center";
        pen.fillText(`${SHORT[kind] || kind}${lane.microbatch[i]}`, x + w / 2, y + height / 2);
      }
    }
  }

  // Busy share per pixel column: as high as the share of time at work there.
  drawShare(pen, lane, first, last, y, height, scale, flat) {
    const columns = Math.ceil(this.plotWidth());
    const share = new Float32Array(columns + 1);
    for (let i = first; i < last; i++) {
      let a = (lane.start[i] - this.from) * scale, b = (lane.end[i] - this.from) * scale;
      if (a < 0) a = 0;
      if (b > columns) b = columns;
      const ca = a | 0, cb = b | 0;
      if (ca === cb) share[ca] += b - a;
      else {
        share[ca] += ca + 1 - a;
        for (let c = ca + 1; c < cb; c++) share[c] += 1;
        share[cb] += b - cb;
      }
    }
    pen.fillStyle = flat || "#0072B2";
    pen.globalAlpha = flat ? 0.3 : 0.85;
    for (let c = 0; c < columns; c++) {
      if (share[c] <= 0) continue;
      const h = height * Math.min(1, share[c]);
      pen.fillRect(LEFT + c, y + height - h, 1, h);
    }
    pen.globalAlpha = 1;
  }

  axis(pen, width, height, ink) {
    const span = this.to - this.from, want = this.plotWidth() / 110;
    let step = Math.pow(10, Math.floor(Math.log10(span / want)));
    if (!isFinite(step) || step <= 0) return;
    for (const f of [1, 2, 5, 10]) if (span / (step * f) <= want) { step *= f; break; }
    const origin = this.low === Infinity ? 0 : this.low;
    pen.fillStyle = ink; pen.strokeStyle = ink; pen.textAlign = "center"; pen.lineWidth = 1;
    const y = height - AXIS + 4;
    for (let k = Math.ceil((this.from - origin) / step); k * step + origin <= this.to; k++) {
      const x = LEFT + (k * step + origin - this.from) * this.plotWidth() / span;
      pen.globalAlpha = 0.25;
      pen.beginPath(); pen.moveTo(x, TOP); pen.lineTo(x, y); pen.stroke();
      pen.globalAlpha = 1;
      pen.fillText(duration(k * step, this.options.unit), x, y + 9);
    }
  }

  hover(x, y) {
    const rank = Math.floor((y - TOP) / (ROW + WAIT + GAP));
    const inside = (y - TOP) - rank * (ROW + WAIT + GAP);
    const time = this.timeAt(x);
    this.tip.style.display = "none";
    if (rank < 0 || rank >= this.options.ranks || inside > ROW + WAIT || x < LEFT) return;
    const lane = inside > ROW ? this.waits[rank] : this.compute[rank];
    const i = lane.first(time);
    if (i >= lane.n || lane.start[i] > time) return;
    const what = inside > ROW ? "waiting: " : "";
    this.tip.textContent = `${what}${actionText(lane, i)}  step ${lane.step[i]}` +
      (lane.microbatch[i] >= 0 ? `  microbatch ${lane.microbatch[i]}` : "") +
      `\n${duration(lane.end[i] - lane.start[i], this.options.unit)}`;
    this.tip.style.display = "block";
    this.tip.style.left = `${Math.min(x + 14, this.box.clientWidth - 190)}px`;
    this.tip.style.top = `${this.canvas.offsetTop + y + 14}px`;
  }
}

// ---- a self-contained page ---------------------------------------------------------------

export function showPage(root, options, base64, n) {
  const view = new Timeline(root, options);
  const binary = atob(base64), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  view.append(decode(bytes, n));
  view.setState("done");
  view.setText(options.text);
  return view;
}

// ---- the widget (anywidget) --------------------------------------------------------------

function render({ model, el }) {
  const view = new Timeline(el, JSON.parse(model.get("options")));
  view.setState(model.get("state"));
  el.wbTimeline = view;
  const receive = (message, buffers) => {
    if (message.kind === "events") {
      if (message.replace) view.reset();
      if (message.n) view.append(decode(buffers[0], message.n));
    }
    if (message.text) view.setText(message.text);
    if (message.state) view.setState(message.state);
  };
  model.on("msg:custom", receive);
  model.send({ kind: "hello" }); // whoever comes late is told the recent past
  return () => { model.off("msg:custom", receive); view.destroy(); };
}

export default { render };
