// An item or an episode as a line of a list.

import { brief, count, el, interval, kindChip, number, plural, signed, standingChip } from "../dom.js";

export function itemRow(row, link) {
  return el("a", { class: "rowlink", href: link("item", row.id) },
    row.text === null ? el("span", { class: "said erased" }, "its text was erased") : el("span", { class: "said" }, brief(row.text)),
    el("span", { class: "about" }, kindChip(row.kind), row.standing ? standingChip(row.standing) : null,
      el("span", null, row.family || "any family"), el("span", null, `born ${row.born}`),
      row.reason ? el("span", null, row.reason) : null),
    el("span", { class: "side" }, row.measured ? el("b", { title: `utility, with its interval: ${interval(row)}` }, signed(row.utility)) : null,
      el("span", null, row.uses ? `${row.wins} of ${row.uses} won` : "not used")));
}

export function outcomeOf(e) {
  if (e.failure) return el("span", { class: "broken" }, "broken");
  return e.success ? el("span", { class: "won" }, "success") : el("span", { class: "lost" }, e.reward > 0 ? `reward ${number(e.reward)}` : "no success");
}

export function episodeRow(e, link) {
  return el("a", { class: "rowlink", href: link("episode", e.slot) },
    el("span", { class: "said" }, e.prompt || el("span", { class: "dim" }, e.slot)),
    el("span", { class: "about" }, el("span", null, e.family), el("span", null, e.phase),
      el("span", null, e.generation === null ? "final test" : `generation ${e.generation}`),
      e.recalled ? el("span", null, `${plural(e.recalled, "item")} recalled`) : null,
      e.errors ? el("span", { class: "lost" }, plural(e.errors, "error")) : null),
    el("span", { class: "side" }, el("b", null, outcomeOf(e)), el("span", null, `${plural(e.steps, "step")}, ${count(e.tokens)} tokens`)));
}
