// Places in a document (page, heading) in the language of the page. The server sends them in
// English; a path of headings is in the document's own language.

import { words } from "./words.js";

const PLACES = [
  [/^page (\d+)$/, (n) => words("places.page", { n })],
  [/^slide (\d+)$/, (n) => words("places.slide", { n })],
  [/^line (\d+)$/, (n) => words("places.line", { n })],
  [/^lines (\d+)-(\d+)$/, (first, last) => words("places.lines", { first, last })],
];

export function place(text) {
  const [pattern, named] = PLACES.find(([start]) => start.test(text)) ?? [];
  return pattern ? named(...pattern.exec(text).slice(1)) : text;
}
