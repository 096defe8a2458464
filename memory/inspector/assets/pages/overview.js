import { heatTable, rateBar, itemColumns, layersOf, learningCurve, lineKey, markOf, phaseBars, promotedRate, CELLS } from "../charts.js";
import { load } from "../data.js";
import { card, count, decisionChip, el, empty, facts, interval, legend, number, seconds, section, signed, swatch } from "../dom.js";

export async function overviewPage(_to, { link }) {
  const [{ generations, summary }, timeline, state] = await Promise.all([load("overview"), load("timeline"), load("state")]);
  const at = (n) => link("generation", n);
  const node = el("div", null,
    summary.unsafe ? el("p", { class: "banner", role: "alert" }, el("strong", null, "Unsafe run. "), "The agent's code ran without a sandbox on this machine.") : null,
    el("p", { class: "eyebrow" }, "Instar · a run"),
    el("h1", null, title(generations)),
    facts([["suite", summary.suite], ["model", summary.model], ["machine", summary.machine], ["date", summary.date],
      ["episodes", count(state.episodes)], ["items ever made", count(state.items)]]),
    generations.length ? tiles(generations, timeline, summary, link) : null,
    generations.length ? [curve(generations, at), testSplit(summary), decisions(generations, at), memory(timeline, link), families(generations, at), cost(generations)]
      : section("Not begun yet", "", empty("No generation is finished", "The first one is the agent before any evolution, measured on the gate split. This page fills by itself.")));
  return { node, title: "Overview" };
}

function title(generations) {
  if (generations.length < 2) return "Before any evolution";
  const promoted = generations.filter((g) => g.decision === "promoted").length;
  const tried = generations.length - 1;
  return `${tried} generation${tried === 1 ? "" : "s"}, ${promoted} promoted`;
}

function tiles(generations, timeline, summary, link) {
  const scores = generations.map(promotedRate).filter(Boolean);
  const arrow = (a, b) => [number(a.mean), el("i", { class: "arrow" }, " → "), number(b.mean)];
  const sum = (what) => generations.reduce((all, g) => all + Object.values(g[what]).reduce((a, b) => a + b, 0), 0);
  const last = timeline.generations.at(-1);
  const alive = timeline.counts.filter((c) => c.generation === last && ["active", "absorbed", "shadow"].includes(c.standing));
  const tile = (value, text, href) => (href ? el("a", { href }, el("b", null, value), el("span", null, text)) : el("div", null, el("b", null, value), el("span", null, text)));
  const test = summary.test || {};
  return el("div", { class: "hero" },
    test.base && test.both ? tile(arrow(test.base, test.both), `test split, base to evolved ${interval(test.both)}`) : null,
    scores.length > 1 ? tile(arrow(scores[0], scores.at(-1)), "gate split, first to last") : scores.length ? tile(number(scores[0].mean), `gate split ${interval(scores[0])}`) : null,
    tile(count(alive.reduce((n, c) => n + c.n, 0)), "items in memory", link("memory")),
    tile(count(sum("tokens")), "tokens, the test aside"), tile(seconds(sum("seconds")), "of work, the test aside"));
}

function curve(generations, at) {
  const cells = CELLS.filter((c) => generations.some((g) => Object.keys(g.cells).length > 1 && g.cells[c]));
  return section("Learning curve", "Success rate on the gate split after each generation, with its 95 % interval; the marks are all that was tried. A hollow knot: the incumbent was kept.",
    card(legend([["the agent that goes on", lineKey()], ...cells.map((c) => [`tried: ${c}`, markOf(c)])]),
      learningCurve([{ generations, colour: "var(--both)", link: at }])));
}

const ARMS = { base: "base", incumbent: "incumbent", memory: "memory", weights: "weights", both: "both", best_of_n: "best of n", pass_at_n: "pass@n" };

function testSplit({ test = {} }) {
  const arms = Object.keys(ARMS).filter((arm) => test[arm] && Number.isFinite(test[arm].mean));
  if (!arms.length) return null;
  const colour = (arm) => (["base", "memory", "weights", "both", "best_of_n"].includes(arm) ? `var(--${arm})` : "var(--p5)");
  const says = (arm) => (arm.endsWith("_n") && test[arm].samples ? `${ARMS[arm].slice(0, -1)}${test[arm].samples}` : ARMS[arm]);
  return section("Test split", "Success rate at the end, on tasks that influenced nothing; whiskers are 95 % intervals.",
    card(el("div", { class: "dumbbells" }, arms.map((arm) => el("div", { class: "dumbbell" },
      el("span", { class: "name" }, says(arm)), rateBar(test[arm], colour(arm), says(arm)),
      el("span", { class: "num" }, el("b", null, number(test[arm].mean)), el("span", { class: "dim" }, ` ${interval(test[arm])}`)))))));
}

function decisions(generations, at) {
  const rows = [...generations].reverse().slice(0, 12).map((g) => {
    const rate = promotedRate(g);
    const before = g.cells.incumbent;
    const gain = rate && before && g.n ? rate.mean - before.mean : null;
    return el("a", { class: "rowlink", href: at(g.n) },
      el("span", { class: "said" }, `Generation ${g.n} `, decisionChip(g)),
      el("span", { class: "about" }, g.reason),
      el("span", { class: "side" }, el("b", null, number(rate?.mean)), el("span", { class: gain > 0 ? "won" : null }, gain === null ? interval(rate) : signed(gain))));
  });
  return section("Decisions", "What the gate decided, and why; newest first.", el("div", { class: "card rows" }, rows));
}

function memory(timeline, link) {
  if (!timeline.counts.length) {
    return section("Memory", "", empty("The memory is empty", "Items appear when a generation with new memory passes the gate; a run with update_memory.enabled=false makes none."));
  }
  const layers = layersOf("standing", timeline);
  const counts = new Map();
  for (const c of timeline.counts) counts.set(`${c.generation}/${c.standing}`, (counts.get(`${c.generation}/${c.standing}`) || 0) + c.n);
  const open = (n) => { location.hash = link("memory", { g: n }); };
  return section("Memory", "Items by standing after each generation; a click goes there.",
    card(legend(layers.map(([name, colour]) => [name, swatch(colour)])),
      itemColumns(timeline.generations, layers, (n, name) => counts.get(`${n}/${name}`) || 0, open, 170)));
}

function families(generations, at) {
  if (!generations.some((g) => Object.keys(g.families).length)) return null;
  return section("Families", "Where the agent is strong, and where it looks next: gate success, and the weight of each family in the next generation's tasks.",
    el("div", { class: generations.length > 8 ? "" : "halves" },
      card(el("h3", null, "Gate success"), heatTable(generations, "families", at)),
      card(el("h3", null, "Objective"), heatTable(generations, "objective", at))));
}

function cost(generations) {
  const recent = generations.slice(-12);
  return section("Cost", recent.length < generations.length ? "Time and tokens of each phase, of the last 12 generations." : "Time and tokens of each phase.",
    el("div", { class: "halves" }, card(el("h3", null, "Time"), phaseBars(recent, "seconds")), card(el("h3", null, "Tokens"), phaseBars(recent, "tokens"))));
}
