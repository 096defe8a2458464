// One episode as a conversation, with what was recalled and why.

import { meter } from "../charts.js";
import { load } from "../data.js";
import { brief, count, el, facts, kindChip, number, plural, signed } from "../dom.js";
import { outcomeOf } from "./rows.js";

const VERDICTS = {
  shown: "stood in the prompt", absorbed: "the weights know it", tokens: "no room in the token budget",
  quota: "enough of its kind", alike: "too like one that was chosen", trust: "not trusted enough",
  withheld: "chosen, but not put before the agent: by chance, to measure it, or the episode ended",
};

export async function episodePage(to, { link }) {
  const slot = to.args.join("/");
  const e = await load("episode", { slot });
  const many = e.looks.length > 1; // one before the first step, then one after each
  const node = el("div", null,
    el("p", { class: "eyebrow" }, `Episode · ${e.family} · ${e.phase}`),
    el("h1", null, outcomeOf(e), e.failure ? "" : ` in ${plural(e.steps.length, "step")}`),
    facts([
      ["slot", el("span", { class: "mono" }, slot)],
      ["task", el("a", { href: link("episodes", { task: e.task }), class: "mono" }, e.task)],
      ["generation", e.generation === null ? "final test" : el("a", { href: link("generation", e.generation) }, e.generation)],
      ["split", e.split], ["reward", number(e.reward)], ["ended", e.stop], ["weights", el("span", { class: "mono" }, e.policy)],
      ["memory", e.memory ? el("span", { class: "mono" }, e.memory) : "none"],
      ["tokens written", count(e.steps.reduce((n, s) => n + s.written, 0))],
      ["sampling", e.temperature ? `temperature ${number(e.temperature)}` : "greedy"],
    ]),
    e.failure ? el("p", { class: "banner", css: { "margin-top": "1.2rem" } }, el("strong", null, `The ${e.failure.source} broke it: `), e.failure.message) : null,
    e.stop === "erased" ? el("p", { class: "banner", css: { "margin-top": "1.2rem" } }, "What was said here was erased; what it scored stays.") : null,
    el("section", null, el("div", { class: "talk" },
      frame(e.frame),
      many ? null : e.looks.map((look) => looked(look, e, link)),
      e.looks.length || !e.recalled.length ? null : recalled(e, link),
      turn("task", "Task", [], el("pre", null, e.prompt || "(no first observation)")),
      e.steps.map((step, i) => [many && e.looks[i] ? looked(e.looks[i], e, link) : null, acted(step, i), answered(step)]),
      many ? e.looks.slice(e.steps.length).map((look) => looked(look, e, link)) : null)),
    after(e, link),
    el("section", { class: "head" },
      e.before ? el("a", { href: link("episode", e.before) }, "← the episode before") : el("span"),
      e.after ? el("a", { href: link("episode", e.after) }, "the next episode →") : el("span")));
  const go = (where) => () => where && (location.hash = link("episode", where));
  return { title: "Episode", node, live: false, keys: { ArrowLeft: go(e.before), ArrowRight: go(e.after) } };
}

function turn(how, who, about, ...body) {
  return el("article", { class: `turn ${how}` }, el("header", null, el("b", null, who), about), el("div", { class: "body" }, body));
}

function frame({ system, example, begin }) {
  if (!system && !example) return null;
  return turn("world", "Before the task", [], el("details", null, el("summary", null, "the system prompt and the worked example"),
    el("pre", null, system), example ? [el("pre", { class: "text" }, `${example[0]}\n\n${example[1]}`)] : null, begin ? el("p", { class: "dim" }, "every turn begins with ", el("code", null, begin)) : null));
}

function looked(look, e, link) {
  const shown = look.candidates.filter((c) => c.verdict === "shown").length;
  const columns = ["similarity", "recency", "utility", "score"];
  const rows = look.candidates.map((c) => {
    const item = e.items[c.item] || {};
    return el("tr", { class: c.verdict === "shown" ? "shown" : null },
      el("td", null, el("a", { href: link("item", c.item), class: "said" }, item.text ? brief(item.text) : c.item), item.kind ? kindChip(item.kind) : null),
      columns.map((name) => el("td", { class: "num", "data-name": name }, name === "utility" ? signed(c[name]) : number(c[name]), meter(c[name]))),
      el("td", null, el("span", { class: `verdict ${c.verdict}`, title: VERDICTS[c.verdict] }, c.verdict), el("div", { class: "dim", css: { "font-size": ".8rem" } }, VERDICTS[c.verdict] || "")));
  });
  return turn("look", "Looked into memory", [`${shown} of ${plural(look.candidates.length, "candidate")} shown`, " · ", `${count(look.tokens)} tokens`],
    look.query !== e.prompt ? el("p", { class: "note" }, `asked: ${look.query}`) : null,
    rows.length ? el("div", { class: "wide" }, el("table", { class: "lines candidates" },
      el("thead", null, el("tr", null, el("th", null, "item"), columns.map((name) => el("th", { class: "num" }, name)), el("th", null, "verdict"))), el("tbody", null, rows))) : el("p", { class: "dim" }, "nothing was near enough"));
}

function recalled(e, link) {
  return turn("look", "Recalled", [plural(e.recalled.length, "item")], el("ul", null, e.recalled.map((id) => {
    const item = e.items[id] || {};
    return el("li", null, item.kind ? [kindChip(item.kind), " "] : null, el("a", { href: link("item", id) }, item.text ? brief(item.text) : id));
  })));
}

function acted(step, i) {
  const { tool, arguments: given, ...rest } = step.action || {};
  const call = given && typeof given === "object" ? Object.entries(given) : Object.entries(rest);
  return turn("agent", `Step ${i + 1}`, [
    el("span", null, `${plural(step.written, "token")} written · ${count(step.read)} read`,
      step.logprob === null ? null : [" · ", el("span", { title: "geometric mean of the tokens' probabilities" }, `sureness ${number(Math.exp(step.logprob))}`)],
      step.choices.length ? ` · chose among ${step.choices.length}` : null)],
    el("pre", null, step.text),
    call.length ? el("details", { class: "call" }, el("summary", null, "call ", el("b", { class: "mono" }, tool || "none")),
      call.map(([name, value]) => [el("p", { class: "dim" }, name), el("pre", { class: "text" }, typeof value === "string" ? value : JSON.stringify(value, null, 1))])) : null);
}

function answered(step) {
  const how = step.error ? "world failed" : "world";
  return turn(how, "World", [step.error ? el("span", { class: "lost" }, step.error) : null,
    el("span", { class: step.reward > 0 ? "won" : null }, `reward ${number(step.reward)}`)], el("pre", null, step.observation || "(it said nothing)"));
}

function after(e, link) {
  if (!e.made.length && !e.trained.length) return null;
  return el("section", null, el("h2", null, "What came of it"),
    el("div", { class: "card" },
      e.made.map((item) => el("p", null, kindChip(item.kind), " ", el("a", { href: link("item", item.id) }, el("span", { class: "mono" }, item.id)), ` was made from it in generation ${item.born}`)),
      e.trained.map((version) => el("p", null, "the adapter ", el("span", { class: "mono" }, version), " was trained on it"))));
}
