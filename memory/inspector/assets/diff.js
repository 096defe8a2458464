// Two texts as one, with what was taken out and what was put in, word by word.

import { el } from "./dom.js";

const LONGEST = 1500; // words; beyond that the texts are shown one after the other

export function diffed(before, after) {
  const [a, b] = [before, after].map((text) => text.split(/(\s+|[^\w\s])/).filter(Boolean));
  const parts = a.length > LONGEST || b.length > LONGEST
    ? [["del", before], ["ins", after]]
    : merged(a, b);
  return el("pre", { class: "diff" }, parts.map(([how, text]) => (how === "same" ? text : el(how, null, text))));
}

function merged(a, b) {
  const width = b.length + 1;
  const length = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      length[i * width + j] = a[i] === b[j]
        ? length[(i + 1) * width + j + 1] + 1
        : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    }
  }
  const parts = [];
  const add = (how, text) => {
    if (parts.length && parts.at(-1)[0] === how) parts.at(-1)[1] += text;
    else parts.push([how, text]);
  };
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add("same", a[i]);
      i += 1;
      j += 1;
    } else if (i < a.length && (j === b.length || length[(i + 1) * width + j] >= length[i * width + j + 1])) {
      add("del", a[i]);
      i += 1;
    } else {
      add("ins", b[j]);
      j += 1;
    }
  }
  return parts;
}
