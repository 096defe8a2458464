// The map of items: a point for each, drawn on a canvas, as of any generation.

import { load } from "./data.js";
import { dot, el, familyColour, kindChip, legend, number, replace, rgb, KIND_COLOURS, STANDING_COLOURS } from "./dom.js";

export const STANDINGS = ["", "shadow", "active", "absorbed", "retired", "quarantined"];
const MANY = 2500; // from here on points are set pixel by pixel
const OUT = new Set([4, 5]); // retired, quarantined: faint, unless standing is the colour

// Which standing and utility each item has, at any generation; moves by what generations changed.
export class Standings {
  constructor(count, deltas) {
    this.deltas = [];
    this.standing = new Uint8Array(count);
    this.utility = new Float32Array(count);
    this.at = -1; // how many deltas are applied
    this.extend(count, deltas);
  }

  extend(count, deltas) {
    if (count > this.standing.length) {
      const [standing, utility] = [new Uint8Array(count), new Float32Array(count)];
      standing.set(this.standing);
      utility.set(this.utility);
      Object.assign(this, { standing, utility });
    }
    this.deltas.push(...deltas);
  }

  // Moves to the state after generation n; returns the items that it gave another standing.
  go(n) {
    let target = -1;
    while (target + 1 < this.deltas.length && this.deltas[target + 1].generation <= n) target += 1;
    for (; this.at < target; this.at += 1) {
      const d = this.deltas[this.at + 1];
      d.before = d.before || [new Uint8Array(d.items.length), new Float32Array(d.items.length)];
      d.items.forEach((item, i) => {
        d.before[0][i] = this.standing[item];
        d.before[1][i] = this.utility[item];
        this.standing[item] = d.standings[i];
        this.utility[item] = d.utilities[i];
      });
    }
    for (; this.at > target; this.at -= 1) {
      const d = this.deltas[this.at];
      for (let i = d.items.length - 1; i >= 0; i -= 1) {
        this.standing[d.items[i]] = d.before[0][i];
        this.utility[d.items[i]] = d.before[1][i];
      }
    }
    const own = this.deltas[this.at];
    if (!own || own.generation !== n) return [];
    return own.items.filter((_, i) => own.before[0][i] !== own.standings[i]);
  }
}

// A few pixels, the same each time: items with the same key do not hide each other.
function aside(i) {
  return [((i * 0.618034) % 1) * 8 - 4, ((i * 0.754878) % 1) * 8 - 4];
}

export class ItemMap {
  constructor({ tall = false, open }) {
    this.canvas = el("canvas", { role: "img", "aria-label": "map of memory items" });
    this.tip = el("div", { class: "tip", hidden: true, role: "status" });
    this.box = el("div", { class: tall ? "mapbox tall" : "mapbox" }, this.canvas, this.tip);
    this.legendBox = el("div", { class: "maplegend" });
    this.open = open;
    this.by = "kind";
    this.view = { x: 0, y: 0, zoom: 1 };
    this.changed = [];
    this.labels = new Map();
    this.over = -1;
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.box);
    this.listen();
  }

  set(points, standings) {
    this.points = points;
    this.standings = standings;
    const placed = [...points.x.keys()].filter((i) => points.x[i] !== null);
    const range = (column) => {
      const sorted = Float64Array.from(placed, (i) => column[i]).sort();
      const at = (q) => sorted[Math.floor(q * (sorted.length - 1))] ?? 0;
      const [low, high] = [at(0.002), at(0.998)];
      return [low, Math.max(high - low, 1)];
    };
    this.ranges = [range(points.x), range(points.y)];
    this.hide();
    this.draw();
  }

  show(n) {
    if (!this.standings) return;
    this.changed = this.standings.go(n);
    this.draw();
  }

  colourBy(by) {
    this.by = by;
    this.draw();
  }

  place(i) {
    const [[left, wide], [low, high]] = this.ranges;
    const { width, height } = this;
    const u = ((this.points.x[i] - left) / wide - 0.5) * 0.9;
    const v = ((this.points.y[i] - low) / high - 0.5) * 0.9;
    const [dx, dy] = aside(i);
    return [width * (0.5 + (u - this.view.x) * this.view.zoom) + dx, height * (0.5 - (v - this.view.y) * this.view.zoom) + dy];
  }

  palette() {
    const theme = getComputedStyle(document.documentElement).colorScheme + matchMedia("(prefers-color-scheme: dark)").matches;
    const key = `${theme}/${this.by}/${this.points.families.length}/${this.points.kinds.length}`;
    if (this.known === key) return this.colours;
    const { kinds, families } = this.points;
    const names = {
      kind: kinds.map((k) => KIND_COLOURS[k] || "var(--p5)"),
      standing: STANDINGS.map((s) => STANDING_COLOURS[s] || "var(--line)"),
      family: families.map((f, i) => (f ? familyColour(i) : "var(--p5)")),
      utility: Array.from({ length: 21 }, (_, i) => `color-mix(in oklab, var(${i < 10 ? "--p6" : "--p3"}) ${Math.min(100, Math.abs(i - 10) * 14)}%, color-mix(in oklab, var(--soft) 45%, var(--card)))`),
    }[this.by];
    this.colours = names.map(rgb);
    this.faint = rgb("var(--line)");
    this.known = key;
    const shown = { kind: kinds, standing: STANDINGS.slice(1), family: families.map((f) => f || "any family") }[this.by];
    replace(this.legendBox, this.by === "utility"
      ? el("p", { class: "legend" }, "harms", el("i", { class: "ramp" }), "helps")
      : legend(shown.map((name, i) => [name || "unknown", dot(names[this.by === "standing" ? i + 1 : i])])));
    return this.colours;
  }

  colourOf(i) {
    const standing = this.standings.standing[i];
    if (this.by === "standing") return this.colours[standing];
    if (OUT.has(standing)) return null;
    if (this.by === "kind") return this.colours[this.points.kind[i]];
    if (this.by === "family") return this.colours[this.points.family[i]];
    return this.colours[Math.round(Math.max(0, Math.min(20, 10 + this.standings.utility[i] * 25)))];
  }

  draw() {
    if (!this.points || !this.box.clientWidth) return;
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [this.box.clientWidth, this.box.clientHeight];
    Object.assign(this, { width, height });
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.palette();
    const many = this.points.x.length > MANY;
    if (many) this.dots(pen, scale);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    if (!many) this.discs(pen);
    const ring = getComputedStyle(this.box).getPropertyValue("color");
    pen.strokeStyle = ring;
    pen.lineWidth = 1;
    pen.globalAlpha = 0.45;
    if (this.changed.length <= 400) for (const i of this.changed) if (this.visible(i)) this.ring(pen, i, 6.5);
    pen.globalAlpha = 1;
    if (this.over >= 0 && this.visible(this.over)) {
      pen.lineWidth = 2.2;
      this.ring(pen, this.over, 8);
    }
  }

  visible(i) {
    return this.points.x[i] !== null && this.standings.standing[i] > 0;
  }

  ring(pen, i, radius) {
    const [x, y] = this.place(i);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.stroke();
  }

  discs(pen) {
    const radius = 4.5;
    for (const faint of [true, false]) {
      for (let i = 0; i < this.points.x.length; i += 1) {
        if (!this.visible(i)) continue;
        const colour = this.colourOf(i);
        if ((colour === null) !== faint) continue;
        const [x, y] = this.place(i);
        pen.fillStyle = `rgb(${(colour || this.faint).join(" ")} / ${faint ? 1 : 0.82})`;
        pen.beginPath();
        pen.arc(x, y, faint ? radius * 0.75 : radius, 0, 7);
        pen.fill();
      }
    }
  }

  // 100,000 points in one picture, each a small disc of pixels.
  dots(pen, scale) {
    const [width, height] = [this.canvas.width, this.canvas.height];
    const picture = pen.createImageData(width, height);
    const pixels = new Uint32Array(picture.data.buffer);
    const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    const palette = this.colours.map(pack);
    const faint = pack(this.faint);
    const breadth = this.points.x.length > 40000 ? 2 : this.points.x.length > 12000 ? 3.4 : 5.4;
    const room = Math.max(0.6, Math.min(1, Math.sqrt(width * height) / scale / 700));
    const size = Math.round(breadth * room * scale * Math.min(2, Math.sqrt(this.view.zoom)));
    const disc = [];
    for (let row = 0; row < size; row += 1) {
      for (let column = 0; column < size; column += 1) {
        const off = Math.hypot(row - (size - 1) / 2, column - (size - 1) / 2);
        if (size < 3 || off <= size / 2 - 0.1) disc.push(row * width + column);
      }
    }
    const { x: xs, y: ys } = this.points;
    const { standing, utility } = this.standings;
    const code = { kind: this.points.kind, family: this.points.family }[this.by];
    const [[left, wide], [low, high]] = this.ranges;
    const { x: dx, y: dy, zoom } = this.view;
    for (const last of [false, true]) {
      for (let i = 0; i < xs.length; i += 1) {
        const s = standing[i];
        if (s === 0 || xs[i] === null) continue;
        const out = s > 3 && this.by !== "standing";
        if (out === last) continue;
        const px = Math.round(width * (0.5 + (((xs[i] - left) / wide - 0.5) * 0.9 - dx) * zoom) - size / 2);
        const py = Math.round(height * (0.5 - (((ys[i] - low) / high - 0.5) * 0.9 - dy) * zoom) - size / 2);
        if (px < 0 || py < 0 || px + size > width || py + size > height) continue;
        let colour = faint;
        if (!out) {
          if (code) colour = palette[code[i]];
          else if (this.by === "standing") colour = palette[s];
          else colour = palette[Math.round(Math.max(0, Math.min(20, 10 + utility[i] * 25)))];
        }
        const start = py * width + px;
        for (const offset of disc) pixels[start + offset] = colour;
      }
    }
    pen.putImageData(picture, 0, 0);
  }

  nearest(mx, my, reach = 12) {
    let [best, found] = [reach * reach, -1];
    for (let i = 0; i < this.points.x.length; i += 1) {
      if (!this.visible(i)) continue;
      const [x, y] = this.place(i);
      const d = (x - mx) ** 2 + (y - my) ** 2;
      if (d < best) [best, found] = [d, i];
    }
    return found;
  }

  listen() {
    let drag = null;
    const at = (e) => {
      const frame = this.box.getBoundingClientRect();
      return [e.clientX - frame.left, e.clientY - frame.top];
    };
    this.canvas.addEventListener("pointerdown", (e) => {
      drag = { from: at(e), view: { ...this.view }, moved: false };
      if (e.pointerType === "mouse") this.canvas.setPointerCapture(e.pointerId);
    });
    this.canvas.addEventListener("pointermove", (e) => {
      if (!this.points) return;
      const [x, y] = at(e);
      if (drag && e.buttons & 1 && e.pointerType === "mouse") {
        const [dx, dy] = [x - drag.from[0], y - drag.from[1]];
        drag.moved = drag.moved || Math.hypot(dx, dy) > 4;
        if (drag.moved) {
          this.view.x = drag.view.x - dx / this.width / this.view.zoom;
          this.view.y = drag.view.y + dy / this.height / this.view.zoom;
          this.hide();
          this.draw();
        }
        return;
      }
      this.hover(this.nearest(x, y));
    });
    this.canvas.addEventListener("pointerup", (e) => {
      const clicked = drag && !drag.moved && this.points;
      drag = null;
      if (!clicked) return;
      const found = this.nearest(...at(e), e.pointerType === "mouse" ? 12 : 22);
      // A finger cannot hover: its first touch shows the text, the second one opens the item.
      if (found >= 0 && (e.pointerType === "mouse" || found === this.over)) this.open(found);
      else this.hover(found);
    });
    this.canvas.addEventListener("pointerleave", () => this.hide());
    this.canvas.addEventListener("wheel", (e) => {
      if (!this.points) return;
      e.preventDefault();
      this.zoom(at(e), Math.exp(-e.deltaY / 300));
    }, { passive: false });
    this.canvas.addEventListener("dblclick", () => this.reset());
  }

  zoom([x, y], factor) {
    const before = this.view.zoom;
    const zoom = Math.max(1, Math.min(60, before * factor));
    const [u, v] = [x / this.width - 0.5, 0.5 - y / this.height];
    this.view.x += u / before - u / zoom;
    this.view.y += v / before - v / zoom;
    this.view.zoom = zoom;
    if (zoom === 1) Object.assign(this.view, { x: 0, y: 0 });
    this.hide();
    this.draw();
  }

  reset() {
    this.view = { x: 0, y: 0, zoom: 1 };
    this.draw();
  }

  hide() {
    this.over = -1;
    this.tip.hidden = true;
  }

  async hover(found) {
    if (found === this.over) return;
    this.over = found;
    this.tip.hidden = true;
    this.canvas.style.cursor = found < 0 ? "crosshair" : "pointer";
    this.draw();
    if (found < 0) return;
    if (!this.labels.has(found)) this.labels.set(found, load(`label/${found}`).catch(() => ({})));
    const label = await this.labels.get(found);
    if (this.over !== found) return;
    const standing = STANDINGS[this.standings.standing[found]];
    const utility = this.standings.utility[found];
    replace(this.tip,
      el("div", null, kindChip(label.kind), " ", el("span", { class: "dim" }, ` ${label.family || "any family"} · ${standing}${utility ? ` · utility ${number(utility)}` : ""}`)),
      el("div", { class: "said" }, label.text ?? (label.id ? "its text was erased" : "it is not in this snapshot")));
    const [x, y] = this.place(found);
    this.tip.hidden = false;
    const [w, h] = [this.tip.offsetWidth, this.tip.offsetHeight];
    this.tip.style.left = `${Math.max(4, Math.min(this.width - w - 4, x + 14))}px`;
    this.tip.style.top = `${y + 14 + h > this.height ? Math.max(4, y - h - 14) : y + 14}px`;
  }
}
