// Which page is shown, what is above it, the keys, and whether the run goes on.

import { isExport, leftOut, load, runNumber, runs, useRun } from "./data.js";
import { el, replace, svg } from "./dom.js";
import { comparePage } from "./pages/compare.js";
import { episodePage } from "./pages/episode.js";
import { episodesPage } from "./pages/episodes.js";
import { generationPage, generationsPage } from "./pages/generation.js";
import { itemPage } from "./pages/item.js";
import { memoryPage } from "./pages/memory.js";
import { overviewPage } from "./pages/overview.js";

const PAGES = {
  overview: overviewPage, memory: memoryPage, map: memoryPage, item: itemPage, episodes: episodesPage,
  episode: episodePage, generations: generationsPage, generation: generationPage, compare: comparePage,
};
const TABS = [["overview", "Overview"], ["memory", "Memory"], ["map", "Map"], ["episodes", "Episodes"], ["generations", "Generations"]];
const PARENTS = { item: "memory", episode: "episodes", generation: "generations" };
const POLL_MS = 1500;
const LIVE_S = 45; // so long after the last record the run counts as going on

let known = [];
let shown = { page: null, name: "" };
let turn = 0;
let seen = { seq: -1, unplaced: -1 };

// #/memory?g=3 is a page of the first run, #/b/memory?g=3 of the second.
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  let parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  let run = 0;
  if (parts[0] === "b") [run, parts] = [1, parts.slice(1)];
  return { run: Math.min(run, known.length - 1), name: PAGES[parts[0]] ? parts[0] : "overview", args: parts.slice(1), params: Object.fromEntries(new URLSearchParams(query)) };
}

function link(...parts) {
  return linkTo(runNumber(), parts);
}

function linkTo(run, parts) {
  const last = parts.at(-1);
  const query = typeof last === "object" ? new URLSearchParams(Object.entries(last).filter(([, v]) => v !== "" && v !== null && v !== undefined)).toString() : "";
  const path = (typeof last === "object" ? parts.slice(0, -1) : parts).map((p) => encodeURIComponent(p)).join("/");
  return `#/${run ? "b/" : ""}${path}${query ? `?${query}` : ""}`;
}

const context = {
  link,
  linkTo: (run, ...parts) => linkTo(run, parts),
  runs: () => known,
  // Put parameters into the address without going anywhere.
  remember(params) {
    const { name, args } = route();
    history.replaceState(null, "", link(name, ...args, params));
  },
};

async function show({ again = false } = {}) {
  const mine = (turn += 1);
  const to = route();
  useRun(to.run);
  const main = document.getElementById("main");
  if (!again) {
    shown.page?.close?.();
    shown = { page: null, name: to.name };
    tabs(to);
    replace(main, el("p", { class: "loading" }, "…"));
    window.scrollTo(0, 0);
  }
  let page;
  try {
    page = await PAGES[to.name](to, context);
  } catch (error) {
    const text = error.status === 404 ? "Nothing of this name is known here." : error.message;
    page = { node: el("div", { class: "empty" }, el("h3", null, "It cannot be shown"), el("p", null, text)) };
  }
  if (mine !== turn) return page.close?.();
  if (again) shown.page?.close?.();
  shown.page = page;
  main.style.minHeight = again ? `${main.offsetHeight}px` : ""; // no jump while charts are drawn anew
  replace(main, note(), page.node);
  page.shown?.();
  document.title = `${page.title || "Instar"} · ${known[to.run].name}`;
  if (!again) main.focus({ preventScroll: true });
}

function note() {
  const missing = leftOut();
  return missing.length ? el("p", { class: "note", id: "left-out" }, `A snapshot of the run. Left out: ${missing.join("; ")}.`) : null;
}

// -- above the page

const work = el("div", { class: "work" });
const worksaid = el("div", { class: "worksaid", role: "status" });
const live = el("span", { class: "live" }, el("i", null), el("span", null, ""));
const logo = () => svg("svg", { viewBox: "0 0 16 16", width: 20, height: 20, "aria-hidden": "true" },
  svg("circle", { cx: 8, cy: 8, r: 6.5, fill: "none", stroke: "var(--both)", "stroke-width": 1.5 }),
  svg("circle", { cx: 8, cy: 8, r: 3, fill: "var(--both)" }));

function tabs(to) {
  const current = PARENTS[to.name] || to.name;
  const all = known.length > 1 ? [...TABS, ["compare", "Compare"]] : TABS;
  const run = known.length > 1
    ? el("select", { "aria-label": "run", onchange: (e) => { location.hash = linkTo(Number(e.target.value), [current === "compare" ? "overview" : current]); } },
        known.map((r, i) => el("option", { value: i, selected: i === to.run }, r.name)))
    : null;
  replace(document.getElementById("top"),
    el("div", { class: "bar" },
      el("a", { class: "brand", href: link("overview"), title: known[to.run].name }, logo(), el("span", null, known[to.run].name)),
      el("nav", { "aria-label": "pages" }, all.map(([name, text]) =>
        el("a", { href: link(name), "aria-current": name === current ? "page" : null }, text))),
      el("div", { class: "tools" }, live, run,
        el("button", { class: "icon", title: "light or dark (t)", "aria-label": "light or dark", onclick: theme },
          svg("svg", { viewBox: "0 0 20 20", width: 18, height: 18 }, svg("circle", { cx: 10, cy: 10, r: 7, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }), svg("path", { d: "M10,3 a7,7 0 0,1 0,14 Z", fill: "currentColor" }))),
        el("button", { class: "icon", title: "keys (?)", "aria-label": "keys", onclick: help }, "?"))),
    work, worksaid);
}

function theme() {
  const dark = getComputedStyle(document.documentElement).colorScheme.includes("light dark")
    ? matchMedia("(prefers-color-scheme: dark)").matches
    : document.documentElement.dataset.theme === "dark";
  setTheme(dark ? "light" : "dark");
  try {
    localStorage.setItem("instar-theme", dark ? "light" : "dark");
  } catch {
    // no storage: it holds for this page
  }
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  shown.page?.redraw?.();
}

const KEYS = [
  ["← →", "a generation back, on (h and l as well)"], ["j k", "down and up a list or an episode"], ["Enter", "open what is marked"],
  ["/", "search"], ["Space", "play through the generations"], ["1 – 6", "the pages"], ["t", "light or dark"], ["?", "these keys"],
];

function help() {
  const old = document.querySelector("dialog");
  if (old) return old.close();
  const box = el("dialog", { onclose: () => box.remove(), onclick: (e) => e.target === box && box.close() },
    el("h2", null, "Keys"), el("dl", null, KEYS.map(([key, what]) => [el("dt", null, key.split(" ").map((k) => [el("kbd", null, k), " "])), el("dd", null, what)])),
    el("p", { class: "note" }, "On the map: the wheel zooms, dragging moves, a double click goes back."),
    el("button", { onclick: () => box.close() }, "Close"));
  document.body.append(box);
  box.showModal();
  return box;
}

// -- keys

const SAME = { h: "ArrowLeft", l: "ArrowRight" };

function key(e) {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const typing = e.target.closest?.("input:not([type=range]), select, textarea");
  if (e.key === "Escape" && typing) return typing.blur();
  if (typing || document.querySelector("dialog")) return;
  const name = SAME[e.key] || e.key;
  const pages = known.length > 1 ? [...TABS, ["compare"]] : TABS;
  const general = {
    t: theme, "?": help,
    "/": () => document.querySelector("main input[type=search]")?.focus(),
    Enter: () => document.querySelector(".rowlink.at")?.click(),
    j: () => mark(1), k: () => mark(-1),
    ...Object.fromEntries(pages.map(([page], i) => [String(i + 1), () => { location.hash = link(page); }])),
  };
  const own = shown.page?.keys || {};
  const act = own[name] || general[name];
  if (!act || (name === "Enter" && !e.target.matches?.("body, main")) || (name === " " && e.target.matches?.("button, summary"))) return;
  e.preventDefault();
  act();
}

function mark(step) {
  const rows = [...document.querySelectorAll("main .rowlink, main .turn")];
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("at"));
  rows[at]?.classList.remove("at");
  const row = rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step))];
  row.classList.add("at");
  row.scrollIntoView({ block: "nearest" });
}

// -- a run that goes on

async function watch() {
  try {
    const state = await load("state");
    const [moved, placed] = [seen.seq >= 0 && state.seq !== seen.seq, seen.seq >= 0 && state.unplaced !== seen.unplaced];
    seen = state;
    const { what, done, of } = state.work;
    const busy = what && of > 0 && done < of;
    work.style.width = busy ? `${(100 * done) / of}%` : "0";
    worksaid.className = state.warning ? "worksaid warning" : "worksaid";
    worksaid.textContent = state.warning || (busy ? `${what}: ${Math.floor((100 * done) / of)} %` : what && !state.seq ? what : "");
    const fresh = state.touched && Date.now() / 1000 - state.touched < LIVE_S;
    live.className = fresh ? "live on" : "live";
    live.lastChild.textContent = fresh ? "live" : "";
    live.title = fresh ? "the run goes on" : "nothing new is written";
    if ((moved || placed) && shown.page?.live !== false) {
      if (shown.page?.refresh) await shown.page.refresh({ moved, placed, state });
      else if (moved && shown.page) await show({ again: true });
    }
  } catch {
    live.className = "live off";
    live.lastChild.textContent = "no server";
    live.title = "instar view does not answer";
  }
  setTimeout(watch, document.hidden ? 4 * POLL_MS : POLL_MS);
}

async function begin() {
  try {
    const stored = localStorage.getItem("instar-theme");
    if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
  } catch {
    // no storage: as the system has it
  }
  known = await runs();
  window.addEventListener("hashchange", () => {
    seen = { seq: -1, unplaced: -1 };
    show();
  });
  document.addEventListener("keydown", key);
  await show();
  if (!isExport()) watch();
}

begin();
