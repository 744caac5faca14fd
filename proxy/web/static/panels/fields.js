// Fills a form with a value of JSON, and reads one from it. The name of a field is that of the value;
// `a.b` is the field b of the object a. The attribute data-kind says what a field is:
//   lines   a list with a text on each line
//   choice  a box for a text of such a list, whose other texts are in its lines
//   number  a number; none is -1, which removes a limit
//   part    a number of an object that has only the numbers that are given
// An element with data-rows="NAME" holds a list of objects: a row for each, made of the <template>
// behind it, whose fields have a data-name. A row without numbers counts as none. With
// data-tree="a b c" it holds objects in objects instead: {a: {b: c}} is a row with these three fields.

import { make } from "./dom.js";

/** Fill in a form. Missing values leave a field empty. */
export function fill(form, value) {
  form.reset();
  for (const field of form.elements) if (field.name) put(form, field, at(value, field.name));
  for (const list of form.querySelectorAll("[data-rows]")) {
    list.replaceChildren();
    for (const row of rowsOf(list, value[list.dataset.rows])) addRow(list, row);
  }
  for (const fold of form.querySelectorAll("details")) fold.open = false;
}

/** Read the fields that are not hidden. */
export function read(form) {
  const value = {};
  for (const field of form.elements) {
    if (field.name && !field.closest("[hidden]")) set(value, field.name, field);
  }
  for (const list of form.querySelectorAll("[data-rows]")) {
    const rows = [...list.children].map(readRow).filter(Boolean);
    value[list.dataset.rows] = list.dataset.tree ? treeOf(rows, list.dataset.tree.split(" ")) : rows;
  }
  return value;
}

/** Add a row to a list of objects, with these values. */
export function addRow(list, value = {}) {
  const row = list.parentElement.querySelector("template").content.cloneNode(true).firstElementChild;
  for (const field of row.querySelectorAll("[data-name]")) {
    if (value[field.dataset.name] !== undefined) field.value = value[field.dataset.name] ?? "";
  }
  const { remove } = list.dataset;
  row.append(make("button", { type: "button", className: "quiet danger", onclick: () => row.remove() }, remove));
  list.append(row);
  return row;
}

function rowsOf(list, value) {
  return list.dataset.tree ? branches(value ?? {}, list.dataset.tree.split(" ")) : (value ?? []);
}

function branches(value, [name, ...rest]) {
  if (!rest.length) return [{ [name]: value }];
  return Object.entries(value).flatMap(([own, inner]) => branches(inner, rest).map((row) => ({ [name]: own, ...row })));
}

function treeOf(rows, names) {
  const tree = Object.create(null); // a name may be __proto__
  for (const row of rows) {
    let node = tree;
    for (const name of names.slice(0, -2)) node = node[row[name].trim()] ??= Object.create(null);
    node[row[names.at(-2)]] = row[names.at(-1)];
  }
  return tree;
}

function at(value, name) {
  return name.split(".").reduce((object, part) => object?.[part], value);
}

function put(form, field, own) {
  switch (field.dataset.kind) {
    case "choice":
      field.checked = (own ?? []).includes(field.value);
      break;
    case "lines": {
      const boxes = form.querySelectorAll(`[data-kind="choice"][name="${field.name}"]`);
      const chosen = [...boxes].map((box) => box.value);
      field.value = (own ?? []).filter((value) => !chosen.includes(value)).join("\n");
      break;
    }
    default:
      if (field.type === "checkbox") field.checked = Boolean(own);
      else if (own !== undefined) field.value = own ?? "";
  }
}

function set(value, name, field) {
  switch (field.dataset.kind) {
    case "choice":
      value[name] = [...(value[name] ?? []), ...(field.checked ? [field.value] : [])];
      break;
    case "lines": {
      const lines = field.value.split("\n").map((line) => line.trim());
      value[name] = [...(value[name] ?? []), ...lines.filter(Boolean)];
      break;
    }
    case "number":
      value[name] = field.value === "" ? -1 : Number(field.value);
      break;
    case "part": {
      const [first, second, third] = name.split(".");
      value[first] ??= {};
      if (field.value !== "") (value[first][second] ??= {})[third] = Number(field.value);
      break;
    }
    default:
      value[name] = field.type === "checkbox" ? field.checked : field.value;
  }
}

function readRow(row) {
  const value = {};
  let numbers = 0;
  for (const field of row.querySelectorAll("[data-name]")) {
    if (field.type !== "number") value[field.dataset.name] = field.value;
    else if (field.value !== "") {
      value[field.dataset.name] = Number(field.value);
      numbers += 1;
    }
  }
  return numbers ? value : null;
}
