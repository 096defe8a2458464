import { load, SIZE } from "../data.js";
import { choose, count, el, empty, number, replace, searchBox } from "../dom.js";
import { episodeRow } from "./rows.js";

const OUTCOMES = { success: "success", wrong: "no success", error: "with errors", broken: "broken" };
const SORTS = { newest: "newest first", oldest: "oldest first", longest: "most tokens first", reward: "best reward first" };

export async function episodesPage(to, { link, remember }) {
  const params = { generation: "", phase: "", family: "", outcome: "", text: "", task: "", item: "", sort: "newest", ...to.params };
  const first = load("episodes", { ...params, offset: 0, limit: SIZE });
  const facets = await load("facets");
  const rows = el("div", { class: "rows card", id: "episodes" });
  const found = el("span", { class: "found", role: "status" });
  const more = el("button", { class: "more", type: "button", hidden: true, onclick: () => list(true) }, "more");
  let offset = 0;
  let asked = null;
  let again = false;

  async function list(further = false) {
    asked?.abort();
    asked = new AbortController();
    const mine = asked;
    const from = further ? offset : 0;
    try {
      const page = await (again ? load("episodes", { ...params, offset: from, limit: SIZE }, mine.signal) : first);
      again = true;
      if (mine !== asked) return;
      offset = from + page.rows.length;
      found.textContent = page.total ? `${count(page.total)} episode${page.total === 1 ? "" : "s"}, ${number((100 * page.won) / page.total, 0)} % successful` : "";
      const nodes = page.rows.map((row) => episodeRow(row, link));
      if (further) rows.append(...nodes);
      else replace(rows, nodes.length ? nodes : empty("No such episode", "None has been played yet, or none is like that."));
      more.hidden = offset >= page.total;
    } catch (error) {
      if (error.name !== "AbortError") replace(rows, empty("It cannot be shown", error.message));
    }
  }

  const set = (name) => (value) => {
    params[name] = value;
    remember({ ...params, sort: params.sort === "newest" ? "" : params.sort });
    list();
  };
  const only = [["task", "of task"], ["item", "with item"]].filter(([name]) => params[name]).map(([name, says]) =>
    el("span", { class: "tag" }, `${says} ${params[name]} `, el("a", { href: link("episodes"), "aria-label": "all episodes" }, "×")));
  const node = el("div", null,
    el("p", { class: "eyebrow" }, "What the agent did"), el("h1", null, "Episodes"),
    el("div", { class: "filters", css: { "margin-top": "1.2rem" } },
      searchBox(params.text, "search tasks, families, slots", set("text")),
      choose("generation", [...facets.episode_generations, "final"], params.generation, set("generation"), { final: "final test", ...Object.fromEntries(facets.episode_generations.map((n) => [n, `generation ${n}`])) }),
      choose("phase", facets.phases, params.phase, set("phase")), choose("family", facets.episode_families, params.family, set("family")),
      choose("outcome", Object.keys(OUTCOMES), params.outcome, set("outcome"), OUTCOMES),
      choose("sort", Object.keys(SORTS), params.sort, set("sort"), { "": null, ...SORTS })),
    el("p", { css: { "margin-bottom": ".6rem" } }, found, " ", only), rows, more);
  await list();
  return {
    title: "Episodes",
    node,
    close: () => asked?.abort(),
    async refresh({ moved }) {
      if (moved && offset <= SIZE) await list();
    },
  };
}
