// Charts as SVG, drawn for the width they get. Colour is never the only sign.

import { count, dot, drawn, el, interval, number, seconds, signed, svg, KIND_COLOURS, STANDING_COLOURS } from "./dom.js";

export const CELLS = ["incumbent", "memory", "weights", "both"];
const SHAPES = {
  incumbent: "M-4,0 a4,4 0 1,0 8,0 a4,4 0 1,0 -8,0",
  memory: "M0,-5 L5,4 L-5,4 Z",
  weights: "M-4,-4 H4 V4 H-4 Z",
  both: "M0,-5.5 L5.5,0 L0,5.5 L-5.5,0 Z",
};
const HUES = { incumbent: "var(--base)", memory: "var(--memory)", weights: "var(--weights)", both: "var(--both)" };
const PHASES = ["acquire", "refine", "update", "evaluate"];
export const RUN_COLOURS = ["var(--both)", "var(--memory)"];

export function promotedRate(g) {
  return g.cells[g.cell] || g.cells.incumbent || null;
}

export function markOf(cell) {
  return svg("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" },
    svg("path", { d: SHAPES[cell], fill: HUES[cell], "fill-opacity": 0.85 }));
}

export function lineKey(colour = "var(--both)") {
  return svg("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true", css: { "--c": colour } },
    svg("path", { d: "M-7,0 H7", class: "curve" }), svg("circle", { r: 4.5, class: "knot" }));
}

function ceilingOf(value) {
  return [0.2, 0.4, 0.6, 0.8].find((top) => value <= top) || 1;
}

function ticksOf(last, width) {
  const every = Math.ceil((last + 1) / Math.max(2, Math.floor(width / 46)));
  return Array.from({ length: last + 1 }, (_, n) => n).filter((n) => n % every === 0);
}

// The gate score over generations with its interval; series: [{ generations, colour, link }].
export function learningCurve(series, height = 270) {
  const points = series.map((s) => s.generations.map((g) => [g, promotedRate(g)]).filter(([, r]) => r));
  const all = points.flat();
  const tried = series.length === 1;
  const highs = all.map(([, r]) => r.high ?? r.mean)
    .concat(tried ? all.flatMap(([g]) => Object.values(g.cells).map((r) => r.mean)) : []);
  const ceiling = ceilingOf(Math.max(...highs, 0));
  const last = Math.max(1, ...all.map(([g]) => g.n));
  return drawn((width) => {
    const [left, right, top, bottom] = [40, 14, 10, 44];
    const x = (n) => left + 14 + ((width - left - right - 28) * n) / last;
    const y = (v) => top + (height - top - bottom) * (1 - Math.max(0, Math.min(v, ceiling)) / ceiling);
    const nodes = [];
    for (let i = 0; i <= 4; i += 1) {
      const v = (ceiling * i) / 4;
      nodes.push(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
        svg("text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, number(v)));
    }
    for (const n of ticksOf(last, width)) nodes.push(svg("text", { x: x(n), y: height - 24, "text-anchor": "middle" }, n));
    nodes.push(svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, "generation"));
    points.forEach((own, which) => {
      const banded = own.filter(([, r]) => r.low !== null && r.low !== undefined);
      const edge = [...banded.map(([g, r]) => `${x(g.n)},${y(r.high)}`), ...banded.map(([g, r]) => `${x(g.n)},${y(r.low)}`).reverse()];
      const group = svg("g", { css: { "--c": series[which].colour } },
        svg("polygon", { class: "band", points: edge.join(" ") }),
        svg("polyline", { class: "curve", points: own.map(([g, r]) => `${x(g.n)},${y(r.mean)}`).join(" ") }));
      nodes.push(group);
      if (tried) {
        const beside = Math.min(7, (width - left) / (last + 1) / 6);
        for (const [g] of own.filter(([g]) => Object.keys(g.cells).length > 1)) {
          CELLS.forEach((cell, i) => {
            const rate = g.cells[cell];
            if (!rate) return;
            const at = `translate(${x(g.n) + [-2, -1, 1, 2][i] * beside} ${y(rate.mean)})`;
            nodes.push(svg("path", { d: SHAPES[cell], fill: HUES[cell], "fill-opacity": 0.85, transform: at },
              svg("title", null, `generation ${g.n}, ${cell}: ${number(rate.mean)} ${interval(rate)}`)));
          });
        }
      }
      for (const [g, r] of own) {
        const knot = svg("circle", { class: g.decision === "kept" ? "knot hollow" : "knot", cx: x(g.n), cy: y(r.mean), r: 5.5 },
          svg("title", null, `generation ${g.n}, ${g.decision}: ${number(r.mean)} ${interval(r)}`));
        nodes.push(svg("a", { class: "mark", href: series[which].link(g.n), css: { "--c": series[which].colour }, "aria-label": `generation ${g.n}` }, knot));
      }
    });
    const says = points.map((own) => own.length ? `from ${number(own[0][1].mean)} to ${number(own.at(-1)[1].mean)}` : "").join("; ");
    return svg("svg", { width, height, role: "img", "aria-label": `Gate score over generations, ${says}` }, nodes);
  });
}

export function twoByTwo(g) {
  const cell = (name) => {
    const rate = g.cells[name];
    if (!rate) return el("td", { class: "none" }, "not tried");
    return el("td", { class: name === g.cell ? "on" : null, css: { "--v": rate.mean.toFixed(3) }, title: `${name}: ${rate.n} tasks` },
      el("b", null, number(rate.mean)), el("span", null, interval(rate)));
  };
  const th = (scope, text) => el("th", { scope }, text);
  return el("table", { class: "two", "aria-label": `Generation ${g.n}: memory by weights` },
    el("thead", null, el("tr", null, el("td", { css: { background: "none" } }), th("col", "old weights"), th("col", "new weights"))),
    el("tbody", null,
      el("tr", null, th("row", "old memory"), cell("incumbent"), cell("weights")),
      el("tr", null, th("row", "new memory"), cell("memory"), cell("both"))));
}

// Stacked columns of item counts; choose(n) on click or drag. layers: [[name, colour]].
export function itemColumns(generations, layers, countOf, choose, height = 190) {
  let chosen = null;
  const most = Math.max(1, ...generations.map((n) => layers.reduce((sum, [name]) => sum + countOf(n, name), 0)));
  let columns = new Map();
  const box = drawn((width) => {
    columns = new Map();
    const bottom = 22;
    const slot = width / Math.max(1, generations.length);
    const wide = Math.min(slot * 0.66, 64);
    const every = Math.ceil(generations.length / Math.max(2, Math.floor(width / 52)));
    const tall = (n) => ((height - bottom - 20) * n) / most;
    const nodes = generations.map((n, i) => {
      let y = height - bottom;
      let total = 0;
      const rects = layers.map(([name, colour]) => {
        const items = countOf(n, name);
        total += items;
        if (!items) return null;
        y -= tall(items);
        return svg("rect", { x: slot * (i + 0.5) - wide / 2, y, width: wide, height: tall(items), fill: colour },
          svg("title", null, `generation ${n}: ${items} ${name}`));
      });
      const labelled = i % every === 0 || i === generations.length - 1;
      const middle = { x: slot * (i + 0.5), "text-anchor": "middle" };
      const column = svg("g", { class: n === chosen ? "column on" : "column", onpointerdown: () => choose(n), onpointerenter: (e) => e.buttons & 1 && choose(n) },
        svg("rect", { class: "back", x: slot * i, y: 0, width: slot, height, rx: 6 }), rects,
        labelled ? svg("text", { ...middle, y: y - 6 }, count(total)) : null,
        labelled ? svg("text", { ...middle, y: height - 6 }, n) : null);
      columns.set(n, column);
      return column;
    });
    nodes.unshift(svg("line", { class: "grid", x1: 0, x2: width, y1: height - bottom, y2: height - bottom }));
    return svg("svg", { width, height, role: "img", "aria-label": "items after each generation" }, nodes);
  });
  box.select = (n) => {
    columns.get(chosen)?.classList.remove("on");
    chosen = n;
    columns.get(chosen)?.classList.add("on");
  };
  return box;
}

export function layersOf(by, timeline) {
  const colours = by === "kind" ? KIND_COLOURS : STANDING_COLOURS;
  const present = new Set(timeline.counts.map((c) => (by === "kind" ? c.kind : c.standing)));
  const known = Object.keys(colours).filter((name) => present.has(name));
  return known.map((name) => [name, colours[name]]);
}

// Bars per generation, as long as its phases took (or as many tokens as they produced).
export function phaseBars(generations, what) {
  const names = [...new Set(generations.flatMap((g) => Object.keys(g[what])))].filter((n) => n !== "total");
  const phases = [...PHASES.filter((p) => names.includes(p)), ...names.filter((p) => !PHASES.includes(p))];
  const colour = (p) => `var(--p${((PHASES.indexOf(p) >= 0 ? PHASES.indexOf(p) : phases.indexOf(p)) % 6) + 1})`;
  const total = (g) => phases.reduce((sum, p) => sum + (g[what][p] || 0), 0);
  const longest = Math.max(...generations.map(total), 1e-9);
  const say = what === "seconds" ? seconds : count;
  return [
    el("ul", { class: "legend" }, phases.map((p) => el("li", null, dot(colour(p)), " ", p))),
    el("div", { class: "dumbbells" }, generations.map((g) => {
      const bar = el("div", { css: { display: "flex", height: "16px", width: `${(100 * total(g)) / longest}%`, "border-radius": "3px", overflow: "hidden" } },
        phases.filter((p) => g[what][p]).map((p) => el("div", { css: { flex: `${g[what][p]} 0 0`, background: colour(p) }, title: `${p}: ${say(g[what][p])}` })));
      return el("div", { class: "dumbbell" }, el("span", { class: "name dim" }, `generation ${g.n}`), bar, el("span", { class: "num dim" }, say(total(g))));
    })),
  ];
}

// Per family a line from where it was to where it is; `only` names the one side that knows it.
export function familyChanges(before, after, only = ["gone", "new"]) {
  const families = [...new Set([...Object.keys(after), ...Object.keys(before)])]
    .sort((a, b) => ((after[b] ?? 0) - (before[b] ?? 0)) - ((after[a] ?? 0) - (before[a] ?? 0)));
  return el("div", { class: "dumbbells" }, families.map((family) => {
    const [from, to] = [before[family], after[family]];
    const known = from !== undefined && to !== undefined;
    const change = known ? to - from : 0;
    const colour = change > 0.005 ? "var(--good)" : change < -0.005 ? "var(--bad)" : "var(--soft)";
    const chart = drawn((width) => {
      const x = (v) => 7 + (width - 14) * v;
      const says = `${family}: ${known ? `${number(from)} to ${number(to)}` : number(to ?? from)}`;
      return svg("svg", { width, height: 18, role: "img", "aria-label": says },
        svg("line", { x1: 7, x2: width - 7, y1: 9, y2: 9, class: "grid" }),
        known ? svg("line", { x1: x(from), x2: x(to), y1: 9, y2: 9, stroke: colour, "stroke-width": 3 }) : null,
        from !== undefined ? svg("circle", { cx: x(from), cy: 9, r: 4.5, fill: "var(--card)", stroke: "var(--soft)", "stroke-width": 2 }) : null,
        to !== undefined ? svg("circle", { cx: x(to), cy: 9, r: 5, fill: colour }) : null);
    });
    return el("div", { class: "dumbbell" }, el("span", { class: "name" }, family), chart,
      el("span", { class: "num" }, el("span", { class: "dim" }, `${number(from)} → ${number(to)} `),
        el("b", { css: { color: colour } }, known ? signed(change) : only[from === undefined ? 1 : 0])));
  }));
}

export function heatTable(generations, what, link) {
  const families = [...new Set(generations.flatMap((g) => Object.keys(g[what])))];
  const full = what === "families" ? 1 : Math.max(...generations.flatMap((g) => Object.values(g[what])), 1e-9);
  return el("div", { class: "wide" }, el("table", { class: "heat" },
    el("thead", null, el("tr", null, el("th", { scope: "col" }, ""), generations.map((g) => el("th", { scope: "col" }, el("a", { href: link(g.n) }, g.n))))),
    el("tbody", null, families.map((family) => el("tr", null, el("th", { scope: "row" }, family), generations.map((g) => {
      const v = g[what][family];
      return v === undefined ? el("td", { class: "none" }, "–") : el("td", { css: { "--v": Math.min(1, v / full).toFixed(3) } }, number(v));
    }))))));
}

// An item's measured utility over generations, with its interval. points: [{ start, utility, low, high, uses }].
export function utilityChart(points, generations, height = 190) {
  const shown = points.filter((p) => p.uses > 0);
  const last = Math.max(1, ...generations);
  return drawn((width) => {
    const [left, right, top, bottom] = [42, 12, 8, 36];
    const reach = Math.min(1, Math.max(0.2, ...shown.flatMap((p) => [Math.abs(p.low), Math.abs(p.high)])));
    const x = (n) => left + 10 + ((width - left - right - 20) * n) / last;
    const y = (v) => top + (height - top - bottom) * (0.5 - Math.max(-reach, Math.min(reach, v)) / reach / 2);
    const nodes = [-1, -0.5, 0, 0.5, 1].flatMap((part) => [
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y(part * reach), y2: y(part * reach), "stroke-dasharray": part ? null : "4 3" }),
      svg("text", { x: left - 7, y: y(part * reach) + 4, "text-anchor": "end" }, signed(part * reach))]);
    for (const n of ticksOf(last, width)) nodes.push(svg("text", { x: x(n), y: height - 18, "text-anchor": "middle" }, n));
    nodes.push(svg("text", { x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle" }, "generation"));
    nodes.push(svg("polyline", { class: "curve", points: shown.map((p) => `${x(p.start)},${y(p.utility)}`).join(" ") }));
    for (const p of shown) {
      nodes.push(svg("line", { class: "whisker", x1: x(p.start), x2: x(p.start), y1: y(p.low), y2: y(p.high) }),
        svg("circle", { class: "knot", cx: x(p.start), cy: y(p.utility), r: 5 },
          svg("title", null, `generation ${p.start}: ${signed(p.utility)} ${interval(p)}, ${p.wins} of ${p.uses} uses succeeded`)));
    }
    return svg("svg", { width, height, role: "img", "aria-label": "utility over generations" }, nodes);
  });
}

// How an item stood in each generation, as one strip.
export function lifeline(spans, generations, stop) {
  const last = generations.at(-1) ?? 0;
  const first = generations[0] ?? 0;
  const total = last - first + 1;
  return drawn((width) => svg("svg", { width, height: 46, role: "img", "aria-label": "standing over generations" },
    svg("rect", { x: 0, y: 0, width, height: 20, rx: 4, fill: "var(--track)" }),
    spans.map((s, i) => {
      const [from, to] = [s.start - first, Math.min(spans[i + 1]?.start ?? stop, last + 1) - first];
      return STANDING_COLOURS[s.standing] && svg("rect", { x: (width * from) / total, y: 0, width: Math.max(2, (width * (to - from)) / total - 1), height: 20, rx: 3, fill: STANDING_COLOURS[s.standing] },
        svg("title", null, `${s.standing} from generation ${s.start}: ${s.reason}`));
    }),
    ticksOf(last, width).filter((n) => n >= first).map((n) => svg("text", { x: (width * (n - first + 0.5)) / total, y: 38, "text-anchor": "middle" }, n))));
}

// Uses per generation, the successful ones filled.
export function usesColumns(used, height = 130) {
  const most = Math.max(1, ...used.map((u) => u.uses));
  return drawn((width) => {
    const slot = Math.min(70, width / used.length);
    const tall = (n) => ((height - 42) * n) / most;
    return svg("svg", { width, height, role: "img", "aria-label": "uses per generation" },
      svg("line", { class: "grid", x1: 0, x2: width, y1: height - 20, y2: height - 20 }),
      used.map((u, i) => {
        const at = { x: slot * (i + 0.19), width: slot * 0.62 };
        const middle = { x: slot * (i + 0.5), "text-anchor": "middle" };
        return svg("g", null,
          svg("rect", { ...at, y: height - 20 - tall(u.uses), height: tall(u.uses), fill: "var(--p5)", "fill-opacity": 0.4 }),
          svg("rect", { ...at, y: height - 20 - tall(u.wins), height: tall(u.wins), fill: "var(--p3)" }),
          svg("title", null, `${u.wins} of ${u.uses} succeeded`),
          svg("text", { ...middle, y: height - 26 - tall(u.uses) }, `${u.wins}/${u.uses}`),
          svg("text", { ...middle, y: height - 4 }, u.generation < 0 ? "test" : u.generation));
      }));
  });
}

export function meter(value, colour = "var(--both)") {
  return el("div", { class: "meter" }, el("i", { css: { width: `${Math.max(0, Math.min(1, value)) * 100}%`, background: colour } }));
}

// A rate from 0 to 1 with a whisker for its interval.
export function rateBar(rate, colour, name, height = 22) {
  return drawn((width) => {
    const x = (v) => width * Math.max(0, Math.min(1, v));
    const known = rate.low !== null && rate.low !== undefined;
    const ends = known ? [[x(rate.low), x(rate.high), height / 2, height / 2], ...[rate.low, rate.high].map((v) => [x(v), x(v), height / 2 - 4, height / 2 + 4])] : [];
    const lines = (how) => ends.map(([x1, x2, y1, y2]) => svg("line", { class: how, x1, x2, y1, y2 }));
    return svg("svg", { width, height, role: "img", "aria-label": `${name}: ${number(rate.mean)} ${interval(rate)}` },
      svg("rect", { width, height, rx: 3, fill: "var(--track)" }), svg("rect", { width: x(rate.mean), height, rx: 3, fill: colour }),
      lines("halo"), lines("whisker"));
  });
}
