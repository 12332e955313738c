// Drawing of the timeline on a canvas, all in device pixels. An event that is too narrow for a
// box adds to the share of time at work of the pixels it touches: no pixel shows the colour of
// whoever came last. Where to look, and what to do with keys and messages, is in timeline.js.

import { GROUPS, GROUP_OF, KINDS, SHORT } from "./timeline_events.js";

export const LEFT = 84, RIGHT = 4, TOP = 18, AXIS = 24, PADDING = 6; // CSS pixels
const MOST_BOXES = 5000; // boxes per frame; what is narrower becomes shares
const BOX = 3; // device pixels; a narrower event is no box

// ---- colours and words -------------------------------------------------------------------

function theme(element) {
  const style = getComputedStyle(element);
  const read = (name) => style.getPropertyValue(name).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const paper = read("--jp-layout-color0") || read("--vscode-editor-background");
  const ink = read("--jp-ui-font-color1") || read("--vscode-editor-foreground");
  return { paper: paper || (dark ? "#111" : "#fff"), ink: ink || (dark ? "#ddd" : "#222") };
}

let probe = null;
const known = new Map();
function rgb(colour) { // [r, g, b] of any CSS colour
  if (!known.has(colour)) {
    probe = probe || document.createElement("canvas").getContext("2d",
      { willReadFrequently: true });
    probe.fillStyle = "#fff"; probe.fillRect(0, 0, 1, 1);
    probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
    known.set(colour, [...probe.getImageData(0, 0, 1, 1).data.slice(0, 3)]);
  }
  return known.get(colour);
}

function pack(colour, over, alpha) { // a pixel of `colour` over `over`, as putImageData has it
  const a = rgb(colour), b = over ? rgb(over) : a, t = over ? alpha : 1;
  const mix = (i) => Math.round(t * a[i] + (1 - t) * b[i]);
  return ((255 << 24) | (mix(2) << 16) | (mix(1) << 8) | mix(0)) >>> 0;
}

export function duration(seconds, unit) {
  if (unit !== "s") return `${+seconds.toPrecision(5)} ${unit}`;
  const size = Math.abs(seconds);
  if (size >= 1 || size === 0) return `${+seconds.toPrecision(5)} s`;
  if (size >= 1e-3) return `${+(seconds * 1e3).toPrecision(4)} ms`;
  return `${+(seconds * 1e6).toPrecision(4)} us`;
}

export const percent = (share) => `${Math.round(100 * share)} %`;

export function rowSizes(ranks) { // many ranks get thin rows, so that all fit on a screen
  const row = Math.max(8, Math.min(30, Math.floor(560 / ranks) - 12));
  const sizes = row < 16 ? { row, wait: 3, gap: 2 } : { row, wait: 6, gap: 8 };
  return { ...sizes, pitch: sizes.row + sizes.wait + sizes.gap };
}

// ---- a frame ----------------------------------------------------------------------------

export class Drawing { // the half of Timeline that draws
  invalidate() {
    if (this.dirty || this.dead) return;
    this.dirty = true;
    requestAnimationFrame(() => { this.dirty = false; if (!this.dead) this.draw(); });
  }

  frame() { // geometry and colours of one frame; null while nothing can be seen
    const { paper, ink } = theme(this.root);
    this.box.style.setProperty("--wb-paper", paper);
    this.box.style.setProperty("--wb-ink", ink);
    const css = this.box.clientWidth - 2 * PADDING;
    if (css <= LEFT + RIGHT) return null;
    const ratio = window.devicePixelRatio || 1, canvas = this.canvas;
    const tall = TOP + this.options.ranks * this.sizes.pitch + AXIS;
    const width = Math.round(css * ratio), height = Math.round(tall * ratio);
    canvas.style.height = `${tall}px`;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width; canvas.height = height;
    }
    const px = (size) => Math.round(size * ratio);
    const left = px(LEFT), plot = Math.max(1, width - left - px(RIGHT));
    const narrow = Math.max(BOX * ratio, this.options.ranks * plot / MOST_BOXES);
    return { paper, ink, ratio, width, height, px, left, plot, narrow,
      scale: plot / (this.to - this.from), pen: canvas.getContext("2d"),
      font: getComputedStyle(this.box).fontFamily,
      ground: pack(ink, paper, 0.07),
      levels: Uint32Array.from({ length: 17 }, (_, k) => pack(ink, paper, 0.04 + k / 32)),
      colours: Uint32Array.from(GROUPS, (name) => pack(this.options.colours[name])) };
  }

  draw() {
    const begun = performance.now(), f = this.frame();
    if (!f) return;
    const { pen, px } = f;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.fillStyle = f.paper; pen.fillRect(0, 0, f.width, f.height);
    pen.textBaseline = "middle";
    if (this.share.length < (f.plot + 1) * GROUPS.length)
      this.share = new Float32Array((f.plot + 1) * GROUPS.length);
    this.drawn = { boxes: 0, shares: 0 };
    for (let r = 0; r < this.options.ranks; r++)
      this.drawRank(f, r, px(TOP + r * this.sizes.pitch));
    this.drawGaps(f);
    this.drawSteps(f);
    this.drawAxis(f);
    if (!this.total) this.write(f, this.line, f.left + f.plot / 2, f.height / 2, 14, "center");
    this.frames++;
    const data = this.box.dataset;
    data.frames = String(this.frames);
    data.boxes = String(this.drawn.boxes); data.shares = String(this.drawn.shares);
    for (const [name, key] of this.keys) if (this.seen.has(name)) key.hidden = false;
    if (begun - this.told > 400) { this.told = begun; this.describe(); }
    else if (!this.later) this.later = setTimeout(() => { this.later = 0; this.describe(); }, 450);
    data.drawMs = (performance.now() - begun).toFixed(2);
  }

  write(f, text, x, y, size, align) {
    f.pen.font = `${f.px(size)}px ${f.font}`;
    f.pen.fillStyle = f.ink; f.pen.textAlign = align;
    f.pen.fillText(text, x, y);
  }

  drawRank(f, rank, y) {
    const { px, pen } = f, { row, wait } = this.sizes, lane = this.compute[rank];
    const tall = px(row), x = f.left - px(8);
    const busy = this.gather(f, lane, true);
    this.busy[rank] = busy;
    this.paint(f, y, tall, f.colours, f.ground);
    this.drawBoxes(f, lane, y, tall);
    this.gather(f, this.waits[rank], false);
    this.paintWaits(f, y + tall, px(wait));
    const share = busy === null ? "" : `${percent(busy)} busy`;
    if (row >= 26) {
      this.write(f, `rank ${rank}`, x, y + px(row / 2 - 6), 12, "right");
      pen.globalAlpha = 0.75;
      this.write(f, share, x, y + px(row / 2 + 8), 10.5, "right");
      pen.globalAlpha = 1;
    } else this.write(f, `${rank}  ${share}`, x, y + tall / 2, Math.min(11, row + 1), "right");
  }

  // Sorts a lane's visible events into boxes (this.boxes) and, for those too narrow, pixel
  // shares (this.share: per pixel, per group). Time that two events both cover counts once.
  // Returns the busy share of the time in view for which there are events, or null.
  gather(f, lane, boxes) {
    const first = lane.first(this.from), last = lane.last(this.to), G = GROUPS.length;
    const share = this.share, { scale, plot } = f;
    this.boxes.length = 0; this.some = false;
    share.fill(0, 0, (plot + 1) * G);
    let covered = this.from, busy = 0;
    for (let i = first; i < last; i++) {
      const start = lane.start[i], end = Math.min(lane.end[i], this.to);
      const size = lane.end[i] - start, begin = Math.max(start, covered);
      const wide = boxes && size * scale >= f.narrow;
      if (wide) this.boxes.push(i, covered - start > 0.1 * size && start > this.from ? 1 : 0);
      if (end <= begin) continue;
      busy += end - begin; covered = end;
      if (wide) continue;
      this.some = true;
      const g = boxes ? GROUP_OF[lane.kind[i]] : 0;
      const a = (begin - this.from) * scale, b = Math.min(plot, (end - this.from) * scale);
      const ca = a | 0, cb = b | 0;
      if (ca === cb) { share[ca * G + g] += b - a; continue; }
      share[ca * G + g] += ca + 1 - a;
      for (let c = ca + 1; c < cb; c++) share[c * G + g] += 1;
      share[cb * G + g] += b - cb;
    }
    let known = Math.min(this.to, this.high) - Math.max(this.from, this.low);
    for (const [a, b] of this.gaps)
      known -= Math.max(0, Math.min(b, this.to) - Math.max(a, this.from));
    return known > 0 ? Math.min(1, busy / known) : null;
  }

  image(width, height) { // kept per height: rows for work and for waits take turns
    if (this.imageWidth !== width) { this.images = new Map(); this.imageWidth = width; }
    if (!this.images.has(height)) {
      const data = new ImageData(width, height);
      this.images.set(height, { data, words: new Uint32Array(data.data.buffer) });
    }
    return this.images.get(height);
  }

  // A row whose columns are as high as the share of time at work there, stacked by kind.
  paint(f, y, tall, colours, ground) {
    if (!this.some) {
      f.pen.globalAlpha = 0.07; f.pen.fillStyle = f.ink;
      f.pen.fillRect(f.left, y, f.plot, tall);
      f.pen.globalAlpha = 1;
      return;
    }
    const G = GROUPS.length, { share } = this, { plot } = f;
    const { data, words } = this.image(plot, tall);
    let shares = 0;
    words.fill(ground);
    for (let c = 0, k = 0; c < plot; c++) {
      let sum = 0, pixel = (tall - 1) * plot + c, foot = 0;
      for (let g = 0; g < G; g++, k++) {
        if (share[k] === 0) continue;
        sum += share[k];
        const head = Math.min(tall, Math.max(1, Math.round(sum * tall)));
        for (; foot < head; foot++, pixel -= plot) words[pixel] = colours[g];
      }
      if (sum > 0) shares++;
    }
    this.drawn.shares += shares;
    f.pen.putImageData(data, f.left, y);
  }

  paintWaits(f, y, tall) { // darker where more of the time is waited
    if (!this.some) return;
    const G = GROUPS.length, { share } = this, { levels, plot } = f;
    const { data, words } = this.image(plot, tall);
    for (let c = 0; c < plot; c++) {
      const part = share[c * G];
      words[c] = levels[part > 0 ? Math.max(1, Math.min(16, Math.round(16 * part))) : 0];
    }
    for (let r = 1; r < tall; r++) words.copyWithin(r * plot, 0, plot);
    f.pen.putImageData(data, f.left, y);
  }

  drawBoxes(f, lane, y, tall) {
    const { pen, px } = f, letter = Math.min(11, this.sizes.row - 2);
    pen.font = `${px(letter)}px ${f.font}`;
    pen.textAlign = "center"; pen.lineWidth = Math.max(1, f.ratio / 2);
    pen.strokeStyle = "rgba(0,0,0,0.45)";
    for (let k = 0; k < this.boxes.length; k += 2) {
      const i = this.boxes[k], half = this.boxes[k + 1] ? tall / 2 : 0; // overlapping: below
      const a = Math.max(0, (lane.start[i] - this.from) * f.scale);
      const b = Math.min(f.plot, (lane.end[i] - this.from) * f.scale);
      if (b <= a) continue;
      const kind = KINDS[lane.kind[i]];
      pen.fillStyle = this.options.colours[GROUPS[GROUP_OF[lane.kind[i]]]];
      pen.fillRect(f.left + a, y + half, b - a, tall - half);
      if (b - a > px(4)) pen.strokeRect(f.left + a, y + half, b - a, tall - half);
      this.drawn.boxes++;
      if (letter < 8 || b - a < px(9)) continue;
      const name = SHORT[kind] || kind, batch = lane.microbatch[i];
      const full = batch < 0 ? name : `${name}${batch}`;
      const text = pen.measureText(full).width + px(2) < b - a ? full : name;
      if (pen.measureText(text).width + px(2) > b - a) continue;
      pen.fillStyle = "#000";
      pen.fillText(text, f.left + (a + b) / 2, y + half + (tall - half) / 2 + 0.5);
    }
  }

  drawGaps(f) { // what was not sent, or is no longer kept: hatched
    const all = this.forgotten ? [[-Infinity, this.low], ...this.gaps] : this.gaps;
    const { pen, px } = f, top = px(TOP), foot = f.height - px(AXIS);
    for (const [low, high] of all) {
      const a = Math.max(0, (low - this.from) * f.scale);
      const b = Math.min(f.plot, (high - this.from) * f.scale);
      if (!(b - a >= 1)) continue;
      pen.save();
      pen.beginPath(); pen.rect(f.left + a, top, b - a, foot - top); pen.clip();
      pen.strokeStyle = f.ink; pen.globalAlpha = 0.25; pen.lineWidth = f.ratio;
      pen.beginPath();
      for (let x = a - (foot - top); x < b; x += px(9)) {
        pen.moveTo(f.left + x, foot); pen.lineTo(f.left + x + foot - top, top);
      }
      pen.stroke();
      pen.restore();
      if (b - a > px(80)) this.write(f, "not kept here", f.left + (a + b) / 2, top + px(8), 11,
        "center");
    }
  }

  drawSteps(f) {
    const { pen, px } = f;
    const steps = [...this.steps].filter(([, t]) => t >= this.from && t <= this.to);
    steps.sort((a, b) => a[0] - b[0]);
    let free = -Infinity, before = -Infinity;
    for (const [step, start] of steps) {
      const x = Math.round(f.left + (start - this.from) * f.scale) + 0.5;
      const close = x - before < px(12); // a crowd of lines would hide what they part
      before = x;
      if (!close) {
        pen.globalAlpha = 0.5; pen.strokeStyle = f.ink; pen.lineWidth = 1;
        pen.beginPath(); pen.moveTo(x, px(4)); pen.lineTo(x, f.height - px(AXIS)); pen.stroke();
        pen.globalAlpha = 1;
      }
      if (x < free || x > f.width - px(50)) continue;
      this.write(f, `step ${step}`, x + px(4), px(9), 11, "left");
      free = x + px(64);
    }
  }

  drawAxis(f) {
    const { pen, px } = f, span = this.to - this.from, want = f.plot / px(110);
    this.write(f, this.options.source, f.left - px(8), f.height - px(AXIS) + px(13), 11, "right");
    let step = Math.pow(10, Math.floor(Math.log10(span / want)));
    if (!isFinite(step) || step <= 0 || !this.total) return;
    for (const k of [1, 2, 5, 10]) if (span / (step * k) <= want) { step *= k; break; }
    const zero = this.origin(), y = f.height - px(AXIS) + px(4);
    pen.strokeStyle = f.ink; pen.lineWidth = 1;
    for (let k = Math.ceil((this.from - zero) / step); k * step + zero <= this.to; k++) {
      const x = f.left + Math.round((k * step + zero - this.from) * f.scale) + 0.5;
      pen.globalAlpha = 0.18;
      pen.beginPath(); pen.moveTo(x, px(TOP)); pen.lineTo(x, y); pen.stroke();
      pen.globalAlpha = 1;
      const text = duration(+(k * step).toPrecision(12), this.options.unit);
      pen.font = `${px(11)}px ${f.font}`;
      const half = pen.measureText(text).width / 2;
      const at = Math.max(f.left + half, Math.min(x, f.width - half - 2));
      this.write(f, text, at, y + px(9), 11, "center");
    }
  }
}
