// Elements and numbers. Every text becomes a text node: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "css") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  put(node, children);
  return node;
}

export function put(node, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

export function el(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

export function replace(node, ...children) {
  node.replaceChildren();
  return put(node, children);
}

// A box whose chart is drawn for its width, and again when that changes.
export function drawn(draw, props) {
  const box = el("div", { class: "drawn", ...props });
  let width = 0;
  const redraw = () => {
    if (width > 0) replace(box, draw(width));
  };
  new ResizeObserver((entries) => {
    const now = Math.round(entries[0].contentRect.width);
    if (now !== width) {
      width = now;
      redraw();
    }
  }).observe(box);
  box.redraw = redraw;
  return box;
}

export function number(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return (Math.round(value * 10 ** digits) / 10 ** digits + 0).toFixed(digits).replace("-", "−");
}

export function signed(value, digits = 2) {
  const text = number(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text;
}

export function count(value) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= 0.9995 * size && value >= 10000) return `${Number((value / size).toPrecision(3))}${unit}`;
  }
  return Math.round(value).toLocaleString("en");
}

export function seconds(value) {
  if (value < 9.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  const minutes = Math.round(value / 60);
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

export function interval(rate) {
  if (!rate || rate.low === null || rate.low === undefined) return "";
  return `[${number(rate.low)}, ${number(rate.high)}]`;
}

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

export const KIND_COLOURS = {
  exemplar: "var(--p1)", reflection: "var(--p2)", insight: "var(--p3)",
  skill: "var(--p4)", fact: "var(--p6)", working: "var(--p5)",
};
export const STANDING_COLOURS = {
  active: "var(--p3)", absorbed: "var(--p1)", shadow: "var(--p2)",
  retired: "var(--p5)", quarantined: "var(--p6)",
};
export const STANDING_MEANS = {
  active: "shown when it helps", absorbed: "the weights do as well without it",
  shadow: "on trial: shown while learning only", retired: "no longer recalled",
  quarantined: "did harm, or comes from what did: never shown",
};

export function familyColour(i) {
  return `oklch(var(--family-light) 0.125 ${(i * 137.508 + 25) % 360})`;
}

// The colour as the browser sees it: [red, green, blue].
export function rgb(colour) {
  const probe = el("span", { css: { color: colour, display: "none" } });
  document.body.append(probe);
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  pixel.fillStyle = getComputedStyle(probe).color;
  pixel.fillRect(0, 0, 1, 1);
  probe.remove();
  return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3);
}

// Parts that many pages have.

// The beginning of a text for a list: what stands in a fence is set as code.
export function brief(text) {
  return text.split(/```/).map((part, i) => (i % 2 ? el("code", null, part.replace(/^(?:\w*\n|(?:python|sql|bash|sh)\s)/, "").trim()) : `${part.trim()} `));
}

export function dot(colour) {
  return el("i", { class: "dot", css: { background: colour }, "aria-hidden": "true" });
}

export function chip(text, colour, title) {
  return el("span", { class: "chip", css: { "--c": colour }, title }, dot(colour), text);
}

export function kindChip(kind) {
  return chip(kind || "unknown", KIND_COLOURS[kind] || "var(--p5)");
}

export function standingChip(standing) {
  return chip(standing, STANDING_COLOURS[standing] || "var(--p5)", STANDING_MEANS[standing]);
}

export function decisionChip(g) {
  const cell = g.decision === "promoted" ? `: ${g.cell}` : "";
  return el("span", { class: `decision ${g.decision}` }, g.decision + cell);
}

export function section(title, note, ...body) {
  return el("section", null, el("h2", null, title), note ? el("p", { class: "note" }, note) : null, body);
}

export function card(...body) {
  return el("div", { class: "card" }, body);
}

export function facts(pairs) {
  return el("dl", { class: "facts" }, pairs
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value))));
}

export function empty(title, text) {
  return el("div", { class: "empty" },
    svg("svg", { viewBox: "0 0 48 48", width: 44, height: 44, "aria-hidden": "true" },
      svg("circle", { cx: 24, cy: 24, r: 19, fill: "none", stroke: "var(--line)", "stroke-width": 3 }),
      svg("circle", { cx: 24, cy: 24, r: 8, fill: "var(--line)" })),
    el("h3", null, title), el("p", null, text));
}

export function choose(name, values, chosen, change, labels = {}) {
  const all = el("option", { value: "" }, `any ${name}`);
  return el("select", { "aria-label": name, name, onchange: (e) => change(e.target.value) },
    labels[""] === null ? null : all,
    values.map((v) => el("option", { value: v, selected: String(v) === String(chosen) }, labels[v] || String(v))));
}

export function searchBox(value, placeholder, change) {
  let timer = 0;
  return el("input", {
    type: "search", value, placeholder, "aria-label": placeholder, class: "search", autocomplete: "off",
    oninput: (e) => {
      clearTimeout(timer);
      timer = setTimeout(() => change(e.target.value.trim()), 180);
    },
  });
}

export function legend(keys) {
  return el("ul", { class: "legend" }, keys.map(([text, mark]) => el("li", null, mark, text)));
}

export function swatch(colour) {
  return svg("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" },
    svg("rect", { x: -5, y: -5, width: 10, height: 10, rx: 2, fill: colour }));
}

export function chosenFrom(label, options, value, change) {
  const buttons = options.map(([key, text]) =>
    el("button", {
      type: "button", "aria-pressed": String(key === value), "data-key": key,
      onclick: () => {
        for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.key === key));
        change(key);
      },
    }, text));
  return el("div", { class: "segments", role: "group", "aria-label": label }, buttons);
}
