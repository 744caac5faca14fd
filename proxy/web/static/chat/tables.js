// Tables in an answer: each can be copied into a spreadsheet, and saved as CSV.

import { copyText, make } from "../panels/dom.js";
import { words } from "../panels/words.js";

const rows = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.innerText.trim()));

/** Put a bar with the actions above each table in an element. */
export function tables(element) {
  for (const table of element.querySelectorAll("table")) {
    table.tabIndex = 0; // scrollable by keyboard, too
    const button = (text, onclick) => make("button", { type: "button", className: "quiet", onclick }, text);
    const bar = make("div", { className: "table-bar" }, button(words("common.copy"), copied), button(words("rich.csv"), saved));
    const box = make("div", { className: "table" }, bar);
    table.replaceWith(box);
    box.append(table);
  }
}

const tableOf = (button) => button.parentElement.nextElementSibling;

async function copied({ currentTarget: button }) {
  const text = rows(tableOf(button)).map((row) => row.map((cell) => cell.replace(/[\t\n]+/g, " ")).join("\t"));
  const done = await copyText(text.join("\n"));
  button.textContent = words(done ? "chat.copied" : "chat.not_copied");
  setTimeout(() => (button.textContent = words("common.copy")), 1500);
}

function saved({ currentTarget: button }) {
  const lines = rows(tableOf(button)).map((row) => row.map(field).join(","));
  // The mark at the beginning lets spreadsheets read it as UTF-8.
  const href = URL.createObjectURL(new Blob(["\uFEFF", lines.join("\r\n"), "\r\n"], { type: "text/csv" }));
  make("a", { href, download: "table.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

/** A cell that a spreadsheet would run as a formula is a text there: a model wrote it. */
function field(cell) {
  const text = /^[=@]|^[+-](?![\d.,]+%?$)/.test(cell) ? `'${cell}` : cell;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
