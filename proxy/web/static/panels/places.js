// Where in a document something stands, in the language of the page. The server says it in English;
// a path of headings is the document's own.

const PLACES = [
  [/^page (\d+)$/, (n) => `第 ${n} 页`],
  [/^slide (\d+)$/, (n) => `第 ${n} 张幻灯片`],
  [/^line (\d+)$/, (n) => `第 ${n} 行`],
  [/^lines (\d+)-(\d+)$/, (first, last) => `第 ${first}–${last} 行`],
];
const chinese = document.documentElement.lang.startsWith("zh");

export function place(text) {
  const [pattern, say] = (chinese && PLACES.find(([pattern]) => pattern.test(text))) || [];
  return pattern ? say(...pattern.exec(text).slice(1)) : text;
}
