// Places in a document (page, heading) in the language of the page. The server sends them in
// English; a path of headings is in the document's own language.

const PLACES = [
  [/^page (\d+)$/, (n) => `第 ${n} 页`],
  [/^slide (\d+)$/, (n) => `第 ${n} 张幻灯片`],
  [/^line (\d+)$/, (n) => `第 ${n} 行`],
  [/^lines (\d+)-(\d+)$/, (first, last) => `第 ${first}–${last} 行`],
];
const chinese = document.documentElement.lang.startsWith("zh");

export function place(text) {
  const [pattern, say] = (chinese && PLACES.find(([one]) => one.test(text))) || [];
  return pattern ? say(...pattern.exec(text).slice(1)) : text;
}
