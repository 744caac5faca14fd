// The settings of a question, read from the form.

const NUMBERS = ["temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed"];
const KEPT = "slotproxy settings"; // key in the browser's local storage

/** Return the options for the gateway; empty fields mean the server's default. */
export function options(form) {
  const fields = new FormData(form);
  const number = (name) => (fields.get(name) ? Number(fields.get(name)) : null);
  const sampling = Object.fromEntries(NUMBERS.map((name) => [name, number(name)]).filter(([, value]) => value !== null));
  if (number("top_k_sampling") !== null) sampling.top_k = number("top_k_sampling");
  const kind = fields.get("kind");
  const asked = { kind, system: fields.get("system"), model: fields.get("model"), sampling };
  asked.template = fields.get(`template_${kind}`);
  asked.max_tokens = number("max_tokens");
  asked.history = number("history");
  if (kind === "knowledge") {
    asked.base = fields.get("base");
    asked.top_k = number("top_k");
    asked.score_threshold = number("score_threshold") || null;
  }
  if (kind === "search") asked.engine = fields.get("engine");
  return asked;
}

/** Show the fields of the chosen mode. */
export function kinds(form) {
  const kind = new FormData(form).get("kind");
  for (const part of form.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== kind;
}

/** Restore the settings stored in this browser, and store them whenever they change. */
export function remember(form) {
  form.addEventListener("change", () => {
    kinds(form);
    const kept = [...new FormData(form)].filter(([name]) => name !== "text");
    localStorage.setItem(KEPT, JSON.stringify(kept));
  });
  try {
    for (const [name, value] of JSON.parse(localStorage.getItem(KEPT) ?? "[]")) {
      const field = form.elements[name];
      if (field && name !== "base") field.value = value;
    }
  } catch {
    localStorage.removeItem(KEPT);
  }
  if (form.querySelector('[name="kind"]:checked')?.disabled) form.elements.kind.value = "chat";
  kinds(form);
}
