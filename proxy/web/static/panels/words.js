// The texts of the pages, from the JSON file of the page's language.

const texts = await (await fetch(document.documentElement.dataset.texts)).json();

/** Return the text of a key such as "chat.sources", with `values` in its placeholders:
 * `words("chat.sources", { n: 3 })`. A text with forms "one" and "other" takes that of `n`.
 * `otherwise` is for keys that a server makes up: what is shown if there is no such text. */
export function words(key, values = {}, otherwise = key) {
  let text = key.split(".").reduce((part, name) => part?.[name], texts);
  if (text?.other) text = String(values.n) === "1" ? text.one : text.other;
  return typeof text === "string" ? text.replace(/\{(\w+)\}/g, (_, name) => values[name]) : otherwise;
}
