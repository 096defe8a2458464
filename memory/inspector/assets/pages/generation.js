import { familyChanges, promotedRate, twoByTwo } from "../charts.js";
import { load, SIZE } from "../data.js";
import { card, count, decisionChip, el, empty, facts, interval, number, plural, seconds, section } from "../dom.js";
import { diffed } from "../diff.js";
import { itemRow } from "./rows.js";

export async function generationsPage(_to, { link }) {
  const { generations } = await load("overview");
  const cards = [...generations].reverse().map((g) => el("article", { class: "card" },
    el("div", { class: "head" }, el("h3", null, el("a", { href: link("generation", g.n) }, `Generation ${g.n}`)), decisionChip(g)),
    Object.keys(g.cells).length ? twoByTwo(g) : null, el("p", { class: "reason" }, g.reason)));
  return {
    title: "Generations",
    node: el("div", null, el("p", { class: "eyebrow" }, "Memory × weights, old × new"), el("h1", null, "Generations"),
      el("p", { class: "note", css: { "margin-top": ".6rem" } }, "What memory and weights did on the gate split, each alone and together, newest first. The outlined cell is the agent that goes on."),
      cards.length ? el("div", { class: "cards" }, cards) : empty("No generation is finished", "The first one is the agent before any evolution.")),
  };
}

export async function generationPage(to, { link }) {
  const n = Number(to.args[0]);
  const [told, timeline] = await Promise.all([load(`generation/${n}`), load("timeline")]);
  const { generation: g, parent } = told;
  const rate = promotedRate(g);
  const at = timeline.generations.indexOf(n);
  const [before, next] = [timeline.generations[at - 1], timeline.generations[at + 1]];
  const node = el("div", null,
    el("p", { class: "eyebrow" }, "Generation"),
    el("div", { class: "head" }, el("h1", null, `Generation ${n} `, decisionChip(g)),
      el("span", { class: "steps" },
        before === undefined ? null : el("a", { href: link("generation", before), class: "tag" }, `← ${before}`), " ",
        next === undefined ? null : el("a", { href: link("generation", next), class: "tag" }, `${next} →`))),
    el("p", { class: "reason", css: { "margin-top": ".6rem" } }, g.reason),
    facts([
      ["gate", rate ? `${number(rate.mean)} ${interval(rate)}` : null], ["bred from", n ? el("a", { href: link("generation", g.parent) }, `generation ${g.parent}`) : null],
      ["weights", [el("span", { class: "mono" }, g.weights), told.trained_on ? el("span", { class: "dim" }, ` trained on ${plural(told.trained_on, "episode")}`) : null]], ["memory", el("span", { class: "mono" }, g.memory || "empty")],
      ["tokens", count(Object.values(g.tokens).reduce((a, b) => a + b, 0))], ["time", seconds(Object.values(g.seconds).reduce((a, b) => a + b, 0))],
    ]),
    el("section", { class: "halves" },
      Object.keys(g.cells).length ? card(el("h3", null, "Memory × weights"), twoByTwo(g), details(g)) : null,
      Object.keys(g.families).length ? card(el("h3", null, parent ? "Families, gained and lost" : "Families"),
        el("p", { class: "note", css: { "margin-bottom": ".6rem" } }, parent ? "Gate success, the generation before (hollow) and this one." : "Gate success."),
        familyChanges(parent ? parent.families : {}, g.families)) : null),
    account(g, link),
    changed(told, to.params.event, link),
    played(told, n, link));
  const go = (where) => () => where !== undefined && (location.hash = link("generation", where));
  return { title: `Generation ${n}`, node, live: false, keys: { ArrowLeft: go(before), ArrowRight: go(next) },
    shown: () => to.params.event && document.getElementById(`event-${to.params.event}`)?.scrollIntoView() };
}

function details(g) {
  const entries = Object.entries(g.details).filter(([name]) => name !== "account");
  if (!entries.length) return null;
  const say = (v) => (typeof v === "number" ? Number(v.toPrecision(4)) : typeof v === "string" ? v : JSON.stringify(v, null, 1));
  return el("details", { css: { "margin-top": ".8rem" } }, el("summary", null, "the numbers behind it"),
    entries.map(([name, value]) => [el("p", { class: "dim" }, name.replaceAll("_", " ")), el("pre", { class: "text" }, say(value))]));
}

// What was learnt and lost, each sentence with the episodes that show it.
function account(g, link) {
  const { sentences = [], by } = g.details.account || {};
  if (!sentences.length) return null;
  return section("What was learnt and lost", by === "policy" ? "In the agent's own words; only sentences that name their episodes." : "", card(
    el("ul", null, sentences.map((s) => el("li", null, s.text, s.episodes.map((slot) => [" ", el("a", { href: link("episode", slot), class: "mono" }, slot)]))))));
}

function changed({ generation: g, events }, opened, link) {
  if (!events.length) {
    return section("Memory", "", empty("The memory did not change", g.decision === "kept" ? "The incumbent was kept, with its memory." : "Nothing was added, retired or measured anew."));
  }
  return section("Memory", "What this generation did to the memory, and by which episodes.", events.map((e) => {
    const rows = el("div", { class: "rows" }, e.rows.map((row) => changeRow(row, link)));
    let offset = e.rows.length;
    const more = el("button", { class: "more", type: "button", hidden: offset >= e.n, onclick: async () => {
      const further = await load("changes", { generation: g.n, event: e.event, offset, limit: SIZE });
      offset += further.length;
      rows.append(...further.map((row) => changeRow(row, link)));
      more.hidden = offset >= e.n || !further.length;
    } }, "more");
    const open = opened ? opened === e.event : !["updated", "rejected"].includes(e.event);
    return el("details", { class: "card", open, id: `event-${e.event}` },
      el("summary", null, el("b", { css: { color: "var(--ink)" } }, `${count(e.n)} ${e.event}`), ` · ${e.means}`), rows, more);
  }));
}

// An item's line in the diff; below it what it was made from, and by which episodes.
function changeRow(row, link) {
  const { reason, ...plain } = row;
  const from = row.parents.filter((p) => p.text !== null);
  const revised = row.event === "revised" && from.length === 1 && row.text !== null;
  return el("div", { class: "change" }, itemRow(plain, link),
    el("p", { class: "why" }, reason, row.because.length ? [" · by ", row.because.slice(0, 2).map((slot, i) => [i ? ", " : "", el("a", { href: link("episode", slot), class: "mono" }, slot)]),
      row.because.length > 2 ? ` and ${row.because.length - 2} more` : ""] : null,
    !revised && from.length ? [" · from ", from.map((p, i) => [i ? ", " : "", el("a", { href: link("item", p.id), class: "mono", title: p.text }, p.id.slice(0, 8))])] : null),
    revised ? el("div", { class: "why" }, diffed(from[0].text, row.text)) : null);
}

function played({ played: phases, practised }, n, link) {
  if (!phases.length) return null;
  const rate = (won, all) => (all ? `${number((100 * won) / all, 0)} %` : "–");
  return section("Episodes", "", el("div", { class: "halves" },
    card(el("h3", null, "By phase"), el("div", { class: "wide" }, el("table", { class: "lines" },
      el("thead", null, el("tr", null, el("th", null, "phase"), ["episodes", "successful", "tokens", "broken"].map((t) => el("th", { class: "num" }, t)))),
      el("tbody", null, phases.map((p) => el("tr", null, el("td", null, el("a", { href: link("episodes", { generation: n, phase: p.phase }) }, p.phase)),
        [count(p.episodes), rate(p.won, p.episodes), count(p.tokens), p.broken].map((t) => el("td", { class: "num" }, t)))))))),
    practised.length ? card(el("h3", null, "What it practised"), el("div", { class: "wide" }, el("table", { class: "lines" },
      el("thead", null, el("tr", null, el("th", null, "family"), el("th", { class: "num" }, "episodes"), el("th", { class: "num" }, "successful"))),
      el("tbody", null, practised.map((p) => el("tr", null, el("td", null, el("a", { href: link("episodes", { generation: n, phase: "acquire", family: p.family }) }, p.family)),
        el("td", { class: "num" }, count(p.episodes)), el("td", { class: "num" }, rate(p.won, p.episodes)))))))) : null));
}
