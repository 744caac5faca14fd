// The settings of a question, read from its form.

const NUMBERS = ["temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed"];

/** Return the options for the gateway; empty fields mean the server's default. */
export function options(form) {
  const fields = new FormData(form);
  const number = (name) => (fields.get(name) ? Number(fields.get(name)) : null);
  const sampling = Object.fromEntries(NUMBERS.map((name) => [name, number(name)]).filter(([, value]) => value !== null));
  if (number("top_k_sampling") !== null) sampling.top_k = number("top_k_sampling");
  const kind = fields.get("kind");
  const chosen = { kind, system: fields.get("system"), model: fields.get("model"), sampling };
  chosen.template = fields.get(`template_${kind}`);
  chosen.max_tokens = number("max_tokens");
  chosen.history = number("history");
  if (kind === "knowledge") {
    chosen.base = fields.get("base");
    chosen.top_k = number("top_k");
    chosen.score_threshold = number("score_threshold") || null;
  }
  if (kind === "search") chosen.engine = fields.get("engine");
  return chosen;
}

/** Show the fields of the chosen mode. */
export function kinds(form) {
  const kind = new FormData(form).get("kind");
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== kind;
}
