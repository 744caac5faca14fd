// Fills a form with a value of JSON, and reads one from it. The names of its fields are those of
// the value. A field with data-kind="lines" is a list with a text on each line; fields with
// data-kind="choice" are boxes for texts of such a list, which has other texts in its lines.

/** Fill in a form. Missing values leave a field empty. */
export function fill(form, value) {
  form.reset();
  const chosen = new Map();
  for (const field of form.elements) {
    if (field.dataset.kind !== "choice") continue;
    field.checked = (value[field.name] ?? []).includes(field.value);
    chosen.set(field.name, [...(chosen.get(field.name) ?? []), field.value]);
  }
  for (const field of form.elements) {
    const own = value[field.name];
    if (!field.name || field.dataset.kind === "choice") continue;
    if (field.dataset.kind === "lines") {
      const boxes = chosen.get(field.name) ?? [];
      field.value = (own ?? []).filter((one) => !boxes.includes(one)).join("\n");
    } else if (field.type === "checkbox") field.checked = Boolean(own);
    else if (own !== undefined) field.value = own ?? "";
  }
  for (const fold of form.querySelectorAll("details")) fold.open = false;
}

/** Read the fields that are not hidden. */
export function read(form) {
  const value = {};
  for (const field of form.elements) {
    const { name } = field;
    if (!name || field.closest("[hidden]")) continue;
    if (field.dataset.kind === "choice") {
      value[name] = [...(value[name] ?? []), ...(field.checked ? [field.value] : [])];
    } else if (field.dataset.kind === "lines") {
      const lines = field.value.split("\n").map((line) => line.trim());
      value[name] = [...(value[name] ?? []), ...lines.filter(Boolean)];
    } else value[name] = field.type === "checkbox" ? field.checked : field.value;
  }
  return value;
}
