// The memory over generations: counts, a scrubber, the map, the list. #/map is the map at large.

import { itemColumns, layersOf } from "../charts.js";
import { load, SIZE } from "../data.js";
import { card, choose, chosenFrom, count, el, empty, legend, replace, searchBox, swatch } from "../dom.js";
import { ItemMap, Standings } from "../map.js";
import { itemRow } from "./rows.js";

const SORTS = { newest: "newest first", oldest: "oldest first", utility: "most useful first", harm: "most harmful first", uses: "most used first" };
const TICK_MS = 700;
const PLACED_MS = 5000; // while many items are being placed, the map is drawn anew so often

export async function memoryPage(to, { link, remember }) {
  const large = to.name === "map";
  const [begun, facets] = await Promise.all([load("timeline"), load("facets")]);
  let timeline = begun;
  const title = large ? "Map" : "Memory";
  if (!timeline.generations.length || !timeline.counts.length) {
    return { title, node: el("div", null, heading(large), empty("The memory is empty", "Items appear here when a generation with new memory passes the gate; a run with update_memory.enabled=false makes none.")) };
  }
  const params = { kind: "", standing: "", family: "", text: "", sort: "newest", by: "standing", colour: "kind", ...to.params };
  let generations = timeline.generations;
  let n = generations.includes(Number(params.g)) && params.g !== undefined ? Number(params.g) : generations.at(-1);
  let follow = n === generations.at(-1);

  const map = new ItemMap({ tall: large, open: (number) => { location.hash = link("item", number); } });
  map.by = params.colour;
  const chartBox = el("div");
  const keysBox = el("div");
  const happened = el("div", { class: "happened", "aria-live": "polite" });
  const at = el("span", { class: "at" });
  const slider = el("input", { type: "range", min: 0, step: 1, "aria-label": "generation", oninput: () => go(generations[Number(slider.value)]) });
  const play = el("button", { type: "button", title: "play (Space)", onclick: () => toggle() }, "play");
  const rows = el("div", { class: "rows", id: "items" });
  const found = el("span", { class: "found", role: "status" });
  const more = el("button", { class: "more", type: "button", hidden: true, onclick: () => list(true) }, "more");
  const mapNote = el("p", { class: "found" });
  let chart = null;
  let timer = 0;
  let asked = null;
  let offset = 0;
  let standings = null;
  let pointed = 0;

  function stack() {
    const layers = layersOf(params.by, timeline);
    const counts = new Map();
    for (const c of timeline.counts) {
      const key = `${c.generation}/${params.by === "kind" ? c.kind : c.standing}`;
      const alive = params.by !== "kind" || ["active", "absorbed", "shadow"].includes(c.standing);
      if (alive) counts.set(key, (counts.get(key) || 0) + c.n);
    }
    replace(keysBox, legend(layers.map(([name, colour]) => [name, swatch(colour)])));
    chart = itemColumns(generations, layers, (g, name) => counts.get(`${g}/${name}`) || 0, go, large ? 120 : 190);
    replace(chartBox, chart);
    chart.select(n);
    slider.max = generations.length - 1;
  }

  function told() {
    const events = timeline.events.filter((e) => e.generation === n);
    const order = Object.keys(timeline.meanings);
    events.sort((a, b) => order.indexOf(a.event) - order.indexOf(b.event));
    replace(happened, events.length
      ? events.map((e) => el("a", { href: link("generation", n, { event: e.event }), title: timeline.meanings[e.event] }, el("span", { class: "tag" }, el("b", null, count(e.n)), ` ${e.event}`)))
      : el("span", { class: "dim" }, "nothing changed in this generation"));
  }

  function address() {
    const { kind, standing, family, text, sort, by, colour } = params;
    remember({ g: follow ? "" : n, kind, standing, family, text, sort: sort === "newest" ? "" : sort, by: by === "standing" ? "" : by, colour: colour === "kind" ? "" : colour });
  }

  function go(to_, quiet = false) {
    if (to_ === undefined || (to_ === n && !quiet)) return;
    n = to_;
    follow = n === generations.at(-1);
    at.textContent = `Generation ${n}`;
    slider.value = generations.indexOf(n);
    chart.select(n);
    map.show(n);
    told();
    address();
    if (!large) list();
  }

  async function list(further = false) {
    asked?.abort();
    asked = new AbortController();
    const mine = asked;
    const { kind, standing, family, text, sort } = params;
    const from = further ? offset : 0;
    try {
      const page = await load("items", { generation: n, kind, standing, family, text, sort, offset: from, limit: SIZE }, mine.signal);
      if (mine !== asked) return;
      offset = from + page.rows.length;
      found.textContent = `${count(page.total)} item${page.total === 1 ? "" : "s"}`;
      const nodes = page.rows.map((row) => itemRow(row, link));
      if (further) rows.append(...nodes);
      else replace(rows, nodes.length ? nodes : el("p", { class: "loading" }, "no item is like that in this generation"));
      rows.dataset.generation = n;
      more.hidden = offset >= page.total;
    } catch (error) {
      if (error.name !== "AbortError") replace(rows, el("p", { class: "loading" }, error.message));
    }
  }

  async function points() {
    pointed = performance.now();
    const since = standings?.deltas.at(-1)?.generation;
    const [all, deltas, state] = await Promise.all([load("points"), load("deltas", { since }), load("state")]);
    if (standings) standings.extend(all.x.length, deltas);
    else standings = new Standings(all.x.length, deltas);
    map.set(all, standings);
    const how = all.embedder.startsWith("hash") ? "by their keys' words" : "by their keys' meaning";
    mapNote.textContent = state.unplaced ? `${count(state.unplaced)} items are not placed yet` : `near means alike ${how}; two principal components`;
    if (state.note) mapNote.textContent += ` (${state.note})`;
    map.show(n);
    map.box.dataset.ready = "yes";
  }

  function toggle() {
    if (timer) {
      clearInterval(timer);
      timer = 0;
    } else {
      if (n === generations.at(-1)) go(generations[0]);
      timer = setInterval(() => {
        const next = generations[generations.indexOf(n) + 1];
        if (next === undefined) toggle();
        else go(next);
      }, TICK_MS);
    }
    play.textContent = timer ? "pause" : "play";
  }

  const step = (by) => go(generations[generations.indexOf(n) + by]);
  const set = (name) => (value) => {
    params[name] = value;
    address();
    list();
  };
  const by = chosenFrom("stack by", [["standing", "standing"], ["kind", "kind"]], params.by, (value) => {
    params.by = value;
    stack();
    address();
  });
  const colours = choose("colour", ["kind", "standing", "family", "utility"], params.colour, (value) => {
    params.colour = value;
    map.colourBy(value);
    address();
  }, { "": null, kind: "by kind", standing: "by standing", family: "by family", utility: "by utility" });

  const scrubber = el("div", { class: "scrub" }, at, slider,
    el("span", { class: "steps" }, el("button", { type: "button", title: "a generation back (←)", onclick: () => step(-1) }, "‹"), play, el("button", { type: "button", title: "a generation on (→)", onclick: () => step(1) }, "›")));
  const mapCard = el("div", { class: "card" },
    el("div", { class: "head" }, el("h3", null, "Map"), colours), el("div", { css: { height: ".6rem" } }), map.box, map.legendBox, mapNote);
  const listCard = el("div", { class: "card" },
    el("div", { class: "filters" }, searchBox(params.text, "search items", set("text"))),
    el("div", { class: "filters" },
      choose("kind", facets.kinds, params.kind, set("kind")), choose("standing", facets.standings, params.standing, set("standing")),
      choose("family", facets.families, params.family, set("family")), choose("sort", Object.keys(SORTS), params.sort, set("sort"), { "": null, ...SORTS })),
    found, rows, more);
  const node = el("div", null, heading(large),
    card(el("div", { class: "head" }, keysBox, by), chartBox, scrubber, happened),
    large ? el("div", { css: { "margin-top": "1rem" } }, mapCard) : el("div", { class: "pair" }, listCard, mapCard));

  at.textContent = `Generation ${n}`;
  stack();
  told();
  slider.value = generations.indexOf(n);
  if (!large) await list();

  return {
    title,
    node,
    keys: { ArrowLeft: () => step(-1), ArrowRight: () => step(1), " ": toggle, Home: () => go(generations[0]), End: () => go(generations.at(-1)) },
    shown: points,
    redraw: () => map.draw(),
    close: () => {
      clearInterval(timer);
      asked?.abort();
    },
    async refresh({ moved, placed, state }) {
      const before = generations.length;
      timeline = await load("timeline");
      generations = timeline.generations;
      if (generations.length !== before) {
        const was = follow;
        stack();
        if (was && !timer) go(generations.at(-1), true);
        slider.value = generations.indexOf(n);
        await points();
      } else if (placed && (state.unplaced === 0 || performance.now() - pointed > PLACED_MS)) await points();
      else if (moved) told();
    },
  };
}

function heading(large) {
  return el("div", { css: { "margin-bottom": "1.2rem" } }, el("p", { class: "eyebrow" }, large ? "Every item by its key" : "What is remembered"), el("h1", null, large ? "Map" : "Memory"));
}
