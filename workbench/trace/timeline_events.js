// Events of the timeline: how they arrive, and how they are kept, per rank and sorted by start.
// Nothing here draws. The first of three files that html.py joins into one module.

export const KINDS = ["F", "I", "W", "B", "R", "SEND_F", "RECV_F", "SEND_B", "RECV_B",
  "REDUCE_GRAD", "OPT_STEP", "UNSHARD", "RESHARD", "OFFLOAD", "RELOAD"]; // in Kind's order
export const SHORT = { REDUCE_GRAD: "G", OPT_STEP: "O" };
export const GROUPS = ["F", "I", "W", "B", "R", "OPT_STEP"]; // from a share's foot to its head
export const GROUP_OF = KINDS.map((kind) => {
  const at = GROUPS.indexOf(kind);
  return at < 0 ? GROUPS.length - 1 : at;
});

const COLUMNS = { start: Float64Array, end: Float64Array, reach: Float64Array, step: Int32Array,
  microbatch: Int16Array, stage: Int16Array, kind: Uint8Array };

export class Lane { // one rank's events, sorted by start; reach is the latest end so far
  constructor() { this.n = 0; this.grow(1024); }
  grow(size) {
    for (const name in COLUMNS) {
      const next = new COLUMNS[name](size);
      if (this.n) next.set(this[name].subarray(0, this.n));
      this[name] = next;
    }
  }
  push(start, end, columns, i) {
    if (this.n === this.start.length) this.grow(2 * this.n);
    let at = this.n++;
    while (at > 0 && this.start[at - 1] > start) { this.move(at - 1, at); at--; } // seldom
    this.start[at] = start; this.end[at] = end; this.step[at] = columns.step[i];
    this.microbatch[at] = columns.microbatch[i]; this.stage[at] = columns.stage[i];
    this.kind[at] = columns.kind[i];
    for (let k = at; k < this.n; k++)
      this.reach[k] = k ? Math.max(this.reach[k - 1], this.end[k]) : this.end[k];
  }
  move(from, to) { for (const name in COLUMNS) this[name][to] = this[name][from]; }
  forget(time) { // what ends before `time`
    const count = this.first(time);
    for (const name in COLUMNS) this[name].copyWithin(0, count, this.n);
    this.n -= count;
  }
  first(time) { return search(this.reach, this.n, (v) => v > time); } // ends after `time`
  last(time) { return search(this.start, this.n, (v) => v >= time); } // one past: starts before
}

export function search(values, n, after) { // index of the first value that `after` holds for
  let low = 0, high = n;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (after(values[middle])) high = middle; else low = middle + 1;
  }
  return low;
}

// One buffer: start f64, duration f32, step i32, microbatch i16, stage i16, rank i16, kind u8,
// lane u8; each a column of n. Copied first: a comm's buffer is not aligned.
export function decode(buffer, n) {
  const bytes = buffer instanceof ArrayBuffer ? buffer.slice(0)
    : buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength);
  let at = 0;
  const take = (Type) => {
    const column = new Type(bytes, at, n);
    at += n * Type.BYTES_PER_ELEMENT;
    return column;
  };
  return { start: take(Float64Array), duration: take(Float32Array), step: take(Int32Array),
    microbatch: take(Int16Array), stage: take(Int16Array), rank: take(Int16Array),
    kind: take(Uint8Array), lane: take(Uint8Array) };
}

// Messages are numbered by the events they carry: [first, first + n). A view that missed some
// asks for the recent past; one that has them all already ignores a replay meant for another.
export class Feed {
  constructor(view, ask) {
    this.view = view; this.ask = ask; this.since = null; this.next = null;
    this.unanswered = false; // what was asked may be lost as well: ask until a replay comes
  }
  receive(message, buffers) {
    if (message.kind === "events" && message.n) this.events(message, buffers[0]);
    if (message.text) this.view.setText(message.text);
    if (message.state) this.view.setState(message.state);
  }
  events({ first, n, replay, skipped }, buffer) {
    const end = first + n;
    if (replay) {
      this.unanswered = false;
      if (this.next !== null && this.next >= end && this.since <= first) return;
      this.view.reset();
      this.view.forgotten = first > 0;
      this.since = first;
    } else {
      if (this.next !== null && end <= this.next) return;
      if (this.next === null || first !== this.next) {
        if (this.next === null) this.view.forgotten = first > 0;
        else this.view.skip(decode(buffer, n));
        this.since = first;
        if (first > 0 && !skipped) this.unanswered = true;
      }
      if (this.unanswered) this.ask();
    }
    this.next = end;
    this.view.append(decode(buffer, n));
    if (!this.view.options.live) this.view.toEdge();
  }
}
