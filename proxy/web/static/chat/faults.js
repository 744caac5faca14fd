// What a user can do about an error of the gateway.

import { words } from "../panels/words.js";

/** Explain an error by its code, in the language of the page, with the gateway's own `message`. */
export function explain(code, message) {
  const text = words(`errors.code.${code}`, {}, "");
  if (!text) return message || words("chat.broken");
  return message ? words("chat.explained", { text, message }) : text;
}
