// One memory item: what it says, where it comes from, how it did.

import { lifeline, usesColumns, utilityChart } from "../charts.js";
import { load } from "../data.js";
import { card, count, el, empty, facts, interval, kindChip, legend, plural, section, signed, standingChip, swatch, STANDING_COLOURS } from "../dom.js";
import { diffed } from "../diff.js";
import { episodeRow } from "./rows.js";

const TRUST = { verified: "an environment graded it", judged: "the policy's own words", untrusted: "text of a tool, a page, an import" };

export async function itemPage(to, { link }) {
  const it = await load(`item/${to.args[0]}`);
  const item = it.item;
  const now = it.spans.at(-1);
  const worth = [...it.spans].reverse().find((s) => s.uses > 0);
  const seen = it.spans.filter((s, i) => !i || s.standing !== it.spans[i - 1].standing || s.event !== "updated");
  if (!item) {
    return { title: "Item", live: false, node: el("div", null,
      el("p", { class: "eyebrow" }, "Memory item"), el("h1", null, it.kind || "Unknown", el("span", { class: "dim" }, ` · ${it.family || "any family"}`)),
      el("section", null, empty("What it said was erased", `The item ${it.id} is known, and what it was worth; its text is gone from the ledger.`)),
      life(it, seen, link), uses(it, link)) };
  }
  const node = el("div", null,
    el("p", { class: "eyebrow" }, `Memory item · ${it.says}`),
    el("h1", null, `${item.kind[0].toUpperCase()}${item.kind.slice(1)}`, el("span", { class: "dim" }, item.family ? ` · ${item.family}` : " · any family")),
    facts([
      ["now", now ? standingChip(now.standing) : "never promoted"], ["made", `${item.made} in generation ${item.born}`],
      ["trust", el("span", { title: TRUST[item.trust] }, `${item.trust}: ${TRUST[item.trust]}`)],
      ["utility", worth ? `${signed(worth.utility)} ${interval(worth)}` : "not measured yet"],
      ["id", el("span", { class: "mono" }, it.id)],
    ]),
    section("What it says", "", el("pre", { class: "text" }, item.text),
      el("p", { class: "note", css: { "margin-top": ".7rem" } }, "It is found by: ", el("span", { class: "mono" }, item.key))),
    Object.keys(item.content).length ? el("details", { css: { "margin-top": ".6rem" } }, el("summary", null, "its parts"),
      Object.entries(item.content).map(([name, value]) => [el("p", { class: "dim" }, name), el("pre", { class: "text" }, typeof value === "string" ? value : JSON.stringify(value, null, 1))])) : null,
    life(it, seen, link),
    worth ? section("Utility", "Success rate with it in the prompt minus without it, shrunk to the mean item's; 95 % intervals.", card(utilityChart(it.spans, it.generations))) : null,
    uses(it, link),
    lineage(it, link));
  return { title: `${item.kind} ${it.id.slice(0, 8)}`, node, live: false };
}

function life(it, seen, link) {
  if (!it.spans.length) return section("Life", "", empty("Never promoted", "No generation that passed the gate has it in its memory."));
  const present = [...new Set(it.spans.map((s) => s.standing))].filter((s) => STANDING_COLOURS[s]);
  return section("Life", "How it stood after each generation, and why it changed.", card(
    legend(present.map((s) => [s, swatch(STANDING_COLOURS[s])])), lifeline(seen, it.generations, it.spans.at(-1).stop),
    el("table", { class: "lines" }, el("tbody", null, seen.map((s) => el("tr", null,
      el("td", null, el("a", { href: link("generation", s.start) }, `generation ${s.start}`)),
      el("td", null, el("span", { class: "tag" }, s.event)),
      el("td", null, s.reason, s.because.length ? el("span", { class: "dim" }, " because of ", s.because.slice(0, 3).map((slot, i) => [i ? ", " : "", el("a", { href: link("episode", slot), class: "mono" }, slot)]), s.because.length > 3 ? ` and ${s.because.length - 3} more` : "") : null)))))));
}

function uses(it, link) {
  const total = it.used.reduce((n, u) => n + u.uses, 0);
  if (!total) return section("Uses", "", empty("Not used yet", "It has stood in no prompt so far."));
  const wins = it.used.reduce((n, u) => n + u.wins, 0);
  return section("Uses", `It stood in the prompt of ${plural(total, "episode")}; ${count(wins)} reached full reward.`,
    card(usesColumns(it.used.toSorted((a, b) => (a.generation < 0) - (b.generation < 0))), el("p", { css: { "margin-top": ".8rem" } }, el("a", { href: link("episodes", { item: it.id }) }, "all these episodes"))));
}

function lineage(it, link) {
  const { item } = it;
  const relative = (other, says, before, after) => el("div", { class: "card" },
    el("div", { class: "head" }, el("span", null, says, " ", el("a", { href: link("item", other.id), class: "mono" }, other.id)), other.kind ? kindChip(other.kind) : null),
    other.text === null ? el("p", { class: "erased" }, "its text was erased") : [el("div", { css: { height: ".5rem" } }), diffed(before, after)]);
  const gone = it.sources.length < item.sources.length ? item.sources.length - it.sources.length : 0;
  return section("Lineage", "",
    el("h3", null, "From these episodes"),
    el("div", { class: "card rows", css: { "margin-top": ".5rem" } }, it.sources.map((e) => episodeRow(e, link)),
      gone ? el("p", { class: "dim" }, `${plural(gone, "source")} not in the ledger: ${item.sources.filter((s) => !it.sources.some((e) => e.slot === s)).slice(0, 3).join(", ")}`) : null),
    it.adapters.length ? [el("h3", { css: { "margin-top": "1.4rem" } }, "Adapters trained on its episodes"),
      el("div", { class: "card", css: { "margin-top": ".5rem" } }, it.adapters.map((a) => el("p", null, el("span", { class: "mono" }, a.version), el("span", { class: "dim" }, ` · ${plural(a.episodes, "episode")}`))))] : null,
    it.parents.length ? [el("h3", { css: { "margin-top": "1.4rem" } }, item.made === "merged" ? "Merged from" : "Made from"),
      el("div", { css: { "margin-top": ".5rem" } }, it.parents.map((p) => relative(p, "what changed from", p.text || "", item.text)))] : null,
    it.children.length ? [el("h3", { css: { "margin-top": "1.4rem" } }, "What came of it"),
      el("div", { css: { "margin-top": ".5rem" } }, it.children.map((c) => relative(c, `${c.made} in generation ${c.born}:`, item.text, c.text || "")))] : null);
}
