// The timeline on a canvas: one renderer for the live widget and for self-contained pages.
//
// This file holds the view: its controls, where it looks, what it knows. Drawing happens only in
// requestAnimationFrame when something has changed, so a slow browser drops frames and never
// queues them. It loads nothing; html.py joins the three files into one module.

import { GROUPS, GROUP_OF, KINDS, Feed, Lane, decode } from "./timeline_events.js";
import { Drawing, LEFT, PADDING, RIGHT, TOP, duration, percent, rowSizes }
  from "./timeline_draw.js";

const MOST_EVENTS = 400000; // kept per live view; the older half goes when they are exceeded
const STEPS_IN_VIEW = 2; // while following

const STYLE = `
.wb-timeline { font: 12px/1.5 var(--jp-ui-font-family, system-ui, sans-serif);
  color: var(--wb-ink); background: var(--wb-paper); padding: ${PADDING}px; position: relative;
  box-sizing: border-box; }
.wb-timeline canvas { width: 100%; display: block; cursor: grab; touch-action: pan-y; }
.wb-timeline canvas:active { cursor: grabbing; }
.wb-timeline :is(canvas, button):focus-visible { outline: 2px solid #0072B2; outline-offset: 1px; }
.wb-timeline .wb-bar { display: flex; gap: 8px; align-items: center; flex-wrap: wrap;
  margin-bottom: 4px; }
.wb-timeline .wb-title { font-weight: 600; overflow-wrap: anywhere; }
.wb-timeline .wb-source { border: 1px solid currentColor; border-radius: 3px; padding: 0 5px;
  margin-right: auto; }
.wb-timeline button { font: inherit; color: inherit; background: transparent; min-width: 24px;
  border: 1px solid currentColor; border-radius: 3px; padding: 0 7px; cursor: pointer; }
.wb-timeline button[aria-pressed="true"] { background: #0072B2; border-color: #0072B2;
  color: #fff; }
.wb-timeline .wb-tip { position: absolute; pointer-events: none; display: none; padding: 3px 8px;
  background: var(--wb-ink); color: var(--wb-paper); border-radius: 3px; white-space: pre;
  z-index: 1; }
.wb-timeline .wb-key { display: inline-flex; gap: 4px; align-items: center; font-size: 11px; }
.wb-timeline .wb-key i { width: 11px; height: 11px; border: 1px solid #0006; }
.wb-timeline .wb-busy { opacity: 0.8; }
.wb-timeline [hidden] { display: none; }
`;

// ---- the view ----------------------------------------------------------------------------

export class Timeline extends Drawing {
  constructor(root, options) {
    super();
    this.options = options; // { ranks, title, source, unit, colours, live }
    this.root = root;
    this.from = 0; this.to = 1; this.follow = Boolean(options.live);
    this.frames = 0; this.dirty = false; this.dead = false; this.told = 0;
    this.sizes = rowSizes(options.ranks);
    this.boxes = []; this.share = new Float32Array(0); this.busy = [];
    this.line = options.live ? "waiting for the first step" : "no events";
    this.build();
    this.reset();
    this.listen();
    this.setState(options.state || "waiting");
    this.setText(options.text || this.line);
  }

  reset() {
    this.compute = []; this.waits = []; this.gaps = []; this.steps = new Map();
    for (let r = 0; r < this.options.ranks; r++) {
      this.compute.push(new Lane()); this.waits.push(new Lane());
    }
    this.total = 0; this.low = Infinity; this.high = -Infinity; this.forgotten = false;
    this.seen = new Set();
    this.invalidate();
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
    this.box.wbTimeline = this;
    this.root.appendChild(this.box);
    this.element("style", "", STYLE);
    const bar = this.element("div", "wb-bar");
    this.element("span", "wb-title", this.options.title, bar);
    this.element("span", "wb-source", this.options.source, bar);
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
    this.followButton.hidden = !this.options.live;
    this.legend(this.element("div", "wb-bar"));
    this.canvas = this.element("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.text = this.element("div", "wb-summary");
    this.busyLine = this.element("div", "wb-busy");
    this.tip = this.element("div", "wb-tip");
    this.tip.setAttribute("role", "tooltip");
    this.setFollow(this.follow);
  }

  legend(bar) {
    this.keys = new Map();
    const key = (name, text, colour) => {
      const e = this.element("span", "wb-key", "", bar);
      if (colour) this.element("i", "", "", e).style.background = colour;
      this.element("span", "", text, e);
      e.hidden = true;
      this.keys.set(name, e);
    };
    const words = { F: "F forward", I: "I input gradient", W: "W weight gradient",
      B: "B backward", R: "R recompute", OPT_STEP: "G, O optimizer" };
    for (const name of GROUPS) key(name, words[name], this.options.colours[name]);
    key("wait", "thin line: waiting", "#8888");
    key("share", "narrow events: as high as the share of time busy");
    this.keys.get("share").hidden = false;
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
    let drag = null;
    canvas.addEventListener("pointerdown", (e) => {
      drag = { x: e.clientX, from: this.from, to: this.to };
      canvas.setPointerCapture(e.pointerId);
    });
    canvas.addEventListener("pointermove", (e) => {
      if (!drag) return this.hover(e.offsetX, e.offsetY);
      const shift = (drag.x - e.clientX) * (drag.to - drag.from) / this.plotWidth();
      if (Math.abs(e.clientX - drag.x) > 2) this.setFollow(false);
      if (!this.follow) this.look(drag.from + shift, drag.to + shift);
    });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, () => { drag = null; });
    canvas.addEventListener("pointerleave", () => { this.tip.style.display = "none"; });
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (e) => this.key(e));
    // Neither canvas nor buttons are text fields: JupyterLab would take X for "cut the cell" and
    // Enter for "edit it". Keys with Ctrl and the like still reach it.
    this.box.addEventListener("keydown", (e) => {
      const plain = !(e.ctrlKey || e.metaKey || e.altKey || (e.shiftKey && e.key === "Enter"));
      if (plain && (e.key.length === 1 || e.key === "Enter")) e.stopPropagation();
    });
    this.redraw = () => this.invalidate();
    this.resize = new ResizeObserver(this.redraw);
    this.resize.observe(this.box);
    // A theme's colours may load after the attribute that announces it.
    this.themes = new MutationObserver(() => {
      this.invalidate(); setTimeout(this.redraw, 300); setTimeout(this.redraw, 1500);
    });
    this.themes.observe(document.body, { attributes: true });
    this.media = matchMedia("(prefers-color-scheme: dark)");
    this.media.addEventListener("change", this.redraw);
    window.addEventListener("resize", this.redraw); // also when the device pixel ratio changes
  }

  destroy() {
    this.dead = true;
    this.resize.disconnect(); this.themes.disconnect();
    this.media.removeEventListener("change", this.redraw);
    window.removeEventListener("resize", this.redraw);
  }

  wheel(e) {
    e.preventDefault();
    const unit = e.deltaMode === 1 ? 16 : e.deltaMode === 2 ? 400 : 1;
    const along = e.shiftKey ? e.deltaY : e.deltaX;
    if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY))
      this.pan(along * unit * (this.to - this.from) / this.plotWidth());
    else this.zoom(Math.exp(e.deltaY * unit * 0.0015), this.timeAt(e.offsetX));
  }

  key(e) {
    const step = 0.1 * (this.to - this.from);
    const acts = {
      w: () => this.zoom(1 / 1.3), s: () => this.zoom(1.3), f: () => this.setFollow(!this.follow),
      a: () => this.pan(-step), d: () => this.pan(step),
      ArrowLeft: () => this.pan(-step), ArrowRight: () => this.pan(step),
      ArrowUp: () => this.zoom(1 / 1.3), ArrowDown: () => this.zoom(1.3),
      Home: () => this.fit(),
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
      const start = columns.start[i], end = start + columns.duration[i], step = columns.step[i];
      const waiting = columns.lane[i] === 1;
      (waiting ? this.waits : this.compute)[rank].push(start, end, columns, i);
      this.seen.add(waiting ? "wait" : GROUPS[GROUP_OF[columns.kind[i]]]);
      const begun = this.steps.get(step);
      if (begun === undefined || start < begun) this.steps.set(step, start);
      if (start < this.low) this.low = start;
      if (end > this.high) this.high = end;
      this.total++;
    }
    if (this.options.live && this.total > MOST_EVENTS) this.trim();
    if (this.follow) this.toEdge();
    this.box.dataset.events = String(this.total);
    this.invalidate();
  }

  // Events that were not sent: their time is hatched, never shown as idle.
  skip(columns) {
    let next = Infinity;
    for (const start of columns.start) if (start < next) next = start;
    if (next > this.high && this.total) this.gaps.push([this.high, next]);
    this.box.dataset.gaps = String(this.gaps.length);
  }

  trim() { // every lane forgets up to the same time
    let longest = this.compute[0];
    for (const lane of this.compute) if (lane.n > longest.n) longest = lane;
    const time = longest.start[longest.n >> 1];
    this.total = 0;
    for (const lane of [...this.compute, ...this.waits]) {
      lane.forget(time);
      this.total += lane.n;
    }
    for (const [step, start] of this.steps) if (start < time) this.steps.delete(step);
    this.gaps = this.gaps.filter((gap) => gap[1] > time);
    this.low = time; this.forgotten = true;
  }

  setState(state) {
    this.box.dataset.state = state;
  }

  setText(text) {
    this.text.textContent = this.line = text;
    this.describe();
    this.invalidate();
  }

  describe() {
    const shown = this.busy.filter((share) => share !== null);
    let words = "";
    if (shown.length && this.busy.length <= 16)
      words = "busy in view: " + this.busy.map((share, rank) =>
        `rank ${rank} ${share === null ? "-" : percent(share)}`).join(", ");
    else if (shown.length) {
      const mean = shown.reduce((a, b) => a + b) / shown.length;
      words = `busy in view: mean ${percent(mean)}, least ${percent(Math.min(...shown))}, ` +
        `most ${percent(Math.max(...shown))}`;
    }
    this.busyLine.textContent = words || "\u00a0";
    this.canvas.setAttribute("aria-label",
      `Timeline of ${this.options.ranks} ranks, ${this.options.source}. ${this.line}` +
      (words && `; ${words}`));
  }

  place(rank) { // where a rank's row is, in CSS pixels of the canvas; for tests
    const { pitch, row, wait } = this.sizes;
    return { x: LEFT, y: TOP + rank * pitch, width: this.plotWidth(), height: row, wait };
  }

  // ---- looking ----

  plotWidth() { return Math.max(1, this.canvas.clientWidth - LEFT - RIGHT); }
  timeAt(x) { return this.from + (x - LEFT) * (this.to - this.from) / this.plotWidth(); }
  origin() { return this.options.live ? 0 : this.low; } // time zero of the axis

  look(from, to) { // never so far in or out that one is lost
    const all = this.high > this.low ? this.high - this.low : 1;
    const size = Math.min(Math.max(to - from, 1e-7 * all, 1e-8), 2 * all);
    let begin = (from + to) / 2 - size / 2;
    if (this.high > this.low)
      begin = Math.min(Math.max(begin, this.low - size / 2), this.high - size / 2);
    this.from = begin; this.to = begin + size;
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

  toEdge() { // the last steps, or all there is
    if (!(this.high > this.low)) return;
    let newest = -Infinity, from = Infinity;
    for (const step of this.steps.keys()) if (step > newest) newest = step;
    for (let k = 0; k < STEPS_IN_VIEW; k++) {
      const start = this.steps.get(newest - k);
      if (start < from) from = start;
    }
    this.look(from === Infinity ? this.low : from, this.high);
  }

  // ---- hovering ----

  hover(x, y) {
    const { pitch, row, wait } = this.sizes;
    const rank = Math.floor((y - TOP) / pitch), inside = (y - TOP) - rank * pitch;
    this.tip.style.display = "none";
    const outside = rank < 0 || rank >= this.options.ranks || inside > row + wait || x < LEFT;
    if (outside) return;
    const waiting = inside > row;
    const lane = waiting ? this.waits[rank] : this.compute[rank];
    const text = this.tell(lane, x, waiting ? "waiting" : "busy");
    if (!text) return;
    this.tip.textContent = `rank ${rank}  ${waiting ? "waiting: " : ""}${text}`;
    this.tip.style.display = "block";
    const room = this.box.clientWidth - this.tip.offsetWidth - PADDING;
    this.tip.style.left = `${Math.max(0, Math.min(x + 14, room))}px`;
    this.tip.style.top = `${this.canvas.offsetTop + y + 16}px`;
  }

  tell(lane, x, word) { // the event under x, or how many share its pixel
    const low = this.timeAt(Math.floor(x)), high = this.timeAt(Math.floor(x) + 1);
    const first = lane.first(low), last = lane.last(high), unit = this.options.unit;
    let busy = 0, covered = low, found = 0, at = -1;
    for (let i = first; i < last; i++) {
      if (lane.end[i] <= low) continue;
      found++;
      const begin = Math.max(lane.start[i], covered), end = Math.min(lane.end[i], high);
      if (at < 0 || (lane.start[i] <= this.timeAt(x) && lane.end[i] > this.timeAt(x))) at = i;
      if (end > begin) { busy += end - begin; covered = end; }
    }
    if (!found) return "";
    if (found > 2) return `${found} events in this pixel, ${percent(busy / (high - low))} ${word}` +
      `\nsteps ${lane.step[first]} to ${lane.step[last - 1]}; zoom in to see them`;
    const batch = lane.microbatch[at], kind = KINDS[lane.kind[at]];
    return `${lane.stage[at]}${kind}${batch < 0 ? "" : batch}  step ${lane.step[at]}` +
      (batch < 0 ? "" : `  microbatch ${batch}`) +
      `\n${duration(lane.end[at] - lane.start[at], unit)}, from ` +
      `${duration(lane.start[at] - this.origin(), unit)}`;
  }
}

// ---- a self-contained page ---------------------------------------------------------------

export function showPage(root, options, base64, n) {
  const view = new Timeline(root, options);
  const binary = atob(base64), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  view.append(decode(bytes, n));
  view.toEdge();
  view.setState("done");
  return view;
}

// ---- the widget (anywidget) --------------------------------------------------------------

function render({ model, el }) {
  const view = new Timeline(el, JSON.parse(model.get("options")));
  view.setState(model.get("state"));
  let asked = 0;
  const feed = new Feed(view, () => {
    if (performance.now() - asked < 1000) return;
    asked = performance.now();
    model.send({ kind: "hello" });
  });
  const receive = (message, buffers) => feed.receive(message, buffers);
  model.on("msg:custom", receive);
  model.send({ kind: "hello" }); // whoever comes late is told the recent past
  return () => { model.off("msg:custom", receive); view.destroy(); };
}

export default { render };
