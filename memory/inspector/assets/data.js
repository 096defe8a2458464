// Where the pages' data come from: this server, or what was written into an exported file.

let current = 0;
let stored = null;

export const SIZE = 50;

export function useRun(number) {
  current = number;
}

export function runNumber() {
  return current;
}

export function isExport() {
  if (stored === null) {
    const node = document.getElementById("data");
    stored = node ? JSON.parse(node.textContent) : false;
  }
  return stored !== false;
}

export function leftOut() {
  return isExport() ? stored.left_out : [];
}

export async function runs() {
  return isExport() ? stored.names.map((name) => ({ name })) : ask("api/runs");
}

export async function load(path, params = {}, signal = undefined, run = current) {
  if (isExport()) return fromExport(stored.runs[run], path, params);
  const query = new URLSearchParams(
    Object.entries(params).filter(([, v]) => v !== "" && v !== null && v !== undefined),
  ).toString();
  return ask(`api/${run}/${path}${query ? `?${query}` : ""}`, signal);
}

async function ask(url, signal) {
  const answer = await fetch(url, { signal, headers: { accept: "application/json" } });
  if (!answer.ok) {
    let why = `${answer.status}`;
    try {
      why = (await answer.json()).detail || why;
    } catch {
      // no JSON: the status says it
    }
    throw Object.assign(new Error(String(why)), { status: answer.status });
  }
  return answer.json();
}

function fromExport(run, asked, params) {
  let path = asked;
  if (path === "items") return itemsOf(run, params);
  if (path === "episodes") return episodesOf(run, params);
  if (path === "changes") {
    const rows = run.changes[`${params.generation}/${params.event}`] || [];
    return page(rows, params).rows;
  }
  const number = /^(label|item)\/(\d{1,15})$/.exec(path);
  if (number && number[1] === "label") return run.texts[number[2]] || {};
  if (number) path = `item/${run.texts[number[2]]?.id}`;
  const key = path === "episode" ? `episode/${params.slot}` : path;
  if (run.pages[key] === undefined) {
    throw Object.assign(new Error("it was left out of this export, or is not known"), { status: 404 });
  }
  return run.pages[key];
}

function page(rows, params) {
  const offset = params.offset || 0;
  return { total: rows.length, rows: rows.slice(offset, offset + (params.limit || SIZE)) };
}

const has = (text, part) => String(text || "").toLowerCase().includes(part.toLowerCase());

function itemsOf(run, params) {
  const rows = (run.items[params.generation] || []).map(([no, ...rest]) => {
    const [standing, start, uses, wins, measured, utility, low, high] = rest;
    return { ...run.texts[no], no, standing, start, uses, wins, measured, utility, low, high };
  }).filter((row) =>
    (!params.kind || row.kind === params.kind) &&
    (!params.standing || row.standing === params.standing) &&
    (!params.family || row.family === params.family) &&
    (!params.text || has(row.text, params.text) || row.id.startsWith(params.text)));
  const orders = {
    newest: (a, b) => b.no - a.no, oldest: (a, b) => a.no - b.no,
    utility: (a, b) => b.utility - a.utility || b.no - a.no,
    harm: (a, b) => a.utility - b.utility || b.no - a.no,
    uses: (a, b) => b.uses - a.uses || b.no - a.no,
  };
  return page(rows.sort(orders[params.sort] || orders.newest), params);
}

function episodesOf(run, params) {
  const outcomes = {
    success: (e) => e.success, wrong: (e) => !e.success && !e.failure,
    error: (e) => e.errors > 0, broken: (e) => e.failure,
  };
  const rows = run.episodes.filter((e) =>
    (!params.generation || (params.generation === "final" ? e.generation === null : String(e.generation) === String(params.generation))) &&
    (!params.phase || e.phase === params.phase) &&
    (!params.family || e.family === params.family) &&
    (!params.task || e.task === params.task) &&
    (!params.item || (e.items || []).includes(params.item)) &&
    (!outcomes[params.outcome] || outcomes[params.outcome](e)) &&
    (!params.text || has(e.prompt, params.text) || has(e.slot, params.text) || has(e.family, params.text)));
  const orders = {
    newest: () => 0, oldest: () => 0,
    longest: (a, b) => b.tokens - a.tokens, reward: (a, b) => b.reward - a.reward,
  };
  const sorted = params.sort === "oldest" ? [...rows].reverse() : [...rows].sort(orders[params.sort] || orders.newest);
  return { ...page(sorted, params), won: rows.filter((e) => e.success).length };
}
