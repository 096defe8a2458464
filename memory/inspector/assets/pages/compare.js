// Two runs over each other.

import { familyChanges, learningCurve, lineKey, promotedRate, RUN_COLOURS } from "../charts.js";
import { load } from "../data.js";
import { card, count, el, empty, interval, legend, number, seconds, section } from "../dom.js";

export async function comparePage(_to, { linkTo, runs }) {
  const names = runs().map((r) => r.name);
  if (names.length < 2) {
    return { title: "Compare", node: empty("There is one run only", "Start with a second one: instar view --run DIR --compare DIR") };
  }
  const told = await Promise.all([0, 1].map(async (run) => {
    const [overview, timeline, state] = await Promise.all(["overview", "timeline", "state"].map((path) => load(path, {}, undefined, run)));
    return { ...overview, timeline, state };
  }));
  const series = told.map(({ generations }, run) => ({ generations, colour: RUN_COLOURS[run], link: (n) => linkTo(run, "generation", n) }));
  const sum = (generations, what) => generations.reduce((all, g) => all + Object.values(g[what]).reduce((a, b) => a + b, 0), 0);
  const last = told.map(({ generations }) => generations.at(-1));
  const alive = ({ timeline }) => timeline.counts.filter((c) => c.generation === timeline.generations.at(-1) && ["active", "absorbed", "shadow"].includes(c.standing)).reduce((n, c) => n + c.n, 0);
  const scored = (rate) => (rate ? `${number(rate.mean)} ${interval(rate)}` : "–");
  const rows = [
    ["gate, in the end", told.map((_, i) => scored(last[i] && promotedRate(last[i])))],
    ["test, evolved", told.map(({ summary }) => scored(summary.test?.both))],
    ["generations", told.map(({ generations }) => count(Math.max(0, generations.length - 1)))],
    ["promoted", told.map(({ generations }) => count(generations.filter((g) => g.decision === "promoted").length))],
    ["items in memory", told.map((t) => count(alive(t)))], ["episodes", told.map(({ state }) => count(state.episodes))],
    ["tokens", told.map(({ generations }) => count(sum(generations, "tokens")))], ["time", told.map(({ generations }) => seconds(sum(generations, "seconds")))],
  ].filter(([, values]) => values.some((v) => v !== "–"));
  const node = el("div", null,
    el("p", { class: "eyebrow" }, "Two runs"), el("h1", null, names[0], el("span", { class: "dim" }, " beside "), names[1]),
    section("Learning curves", "Success rate on the gate split, with 95 % intervals.",
      card(legend(names.map((name, i) => [name, lineKey(RUN_COLOURS[i])])), told.some((t) => t.generations.length) ? learningCurve(series) : empty("Nothing to compare yet", "Neither run has finished a generation."))),
    section("In numbers", "", el("div", { class: "card wide" }, el("table", { class: "lines" },
      el("thead", null, el("tr", null, el("th", null, ""), names.map((name, run) => el("th", { class: "num" }, el("a", { href: linkTo(run, "overview") }, name))))),
      el("tbody", null, rows.map(([name, values]) => el("tr", null, el("td", { class: "dim" }, name), values.map((v) => el("td", { class: "num" }, v)))))))),
    last[0] && last[1] ? section("Families", `Gate success in the end: ${names[0]} (hollow) and ${names[1]}.`, card(familyChanges(last[0].families, last[1].families, names.map((name) => `only ${name}`)))) : null);
  return { title: "Compare", node };
}
