// The page that connects other programs: fills address, key and model into what readers paste.

import { Calls } from "./calls.js";
import { copyText, isLocal, say } from "./dom.js";
import { words } from "./words.js";

const LAST = "slotproxy.connect.program"; // the program that was chosen last
const MODEL = "slotproxy.connect.model"; // and the model
// As in connect.py: nothing that ends a quoted text.
const PLAIN = /^(?:(?!["'\\`$!{}])[ -~]|[\p{L}\p{N}_])+$/u;
const SHOWN = 2000; // milliseconds that "Copied" stands on a button

const page = document.getElementById("connect");
const part = (name) => page.querySelector(`[data-part="${name}"]`);
const [key, make, model] = ["key", "make", "model"].map(part);
const links = [...page.querySelectorAll(".programs a")];
const standing = page.querySelector('[data-value="key"]').textContent; // before a key is chosen

function fill(name, value) {
  for (const element of page.querySelectorAll(`[data-value="${name}"]`)) say(element, value);
}

/** Tell the reader, as good or bad news. */
function tell(state, text) {
  part("told").dataset.state = state;
  say(part("told"), text);
}

function showKey() {
  const value = key.value.trim();
  const usable = PLAIN.test(value);
  fill("key", usable ? value : standing);
  tell("bad", value && !usable ? words("connect.unusable") : "");
}

function showModel() {
  const { context, input, output } = model.selectedOptions[0].dataset;
  for (const [name, value] of Object.entries({ model: model.value, context, input, output })) fill(name, value);
  for (const element of page.querySelectorAll("[data-tokens]")) element.hidden = Number(context) >= Number(element.dataset.tokens);
}

/** Show a program, by default that of the address or the last one. */
function show() {
  const linkOf = (id) => links.find((link) => link.hash === `#${id}`);
  const link = linkOf(location.hash.slice(1)) ?? linkOf(localStorage.getItem(LAST)) ?? links[0];
  const id = link.hash.slice(1);
  for (const other of links) other.ariaCurrent = other === link ? "true" : null;
  for (const section of page.querySelectorAll("[data-program]")) section.hidden = section.dataset.program !== id;
  localStorage.setItem(LAST, id);
  if (make && !make.elements.name.dataset.edited) make.elements.name.value = `${link.textContent} ${minute()}`;
}

/** The time now, as 2026-11-26 14:05: names of keys differ. */
function minute() {
  const now = new Date();
  return new Date(now - 60_000 * now.getTimezoneOffset()).toISOString().slice(0, 16).replace("T", " ");
}

async function makeKey(event) {
  event.preventDefault();
  const button = make.querySelector("button");
  button.disabled = true;
  try {
    const calls = new Calls(page.dataset.api, page.dataset.csrf);
    const made = await calls.post("/key/generate", { key_alias: make.elements.name.value.trim() });
    key.value = made.key;
    showKey();
    tell("good", words("connect.made"));
  } catch (error) {
    if (error.status === undefined) throw error;
    tell("bad", error.message || words(error.status ? "common.failed_request" : "common.no_connection"));
  }
  button.disabled = false;
}

async function copy(button) {
  const text = button.closest("figure, dd").querySelector("code:not(figcaption code)");
  const copied = await copyText(text.closest("pre") ? `${text.textContent}\n` : text.textContent);
  if (!copied) getSelection().selectAllChildren(text);
  say(button, words(copied ? "connect.copied" : "connect.not_copied"));
  setTimeout(() => say(button, words("common.copy")), SHOWN);
}

// The address as this browser reaches it: a proxy in between may have another one.
fill("address", new URL(document.body.dataset.home, location).href.replace(/\/$/, ""));
part("local").hidden = !isLocal();
part("windows").hidden = !navigator.userAgent.includes("Windows");
page.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-copy]");
  if (button) copy(button);
});
key?.addEventListener("input", showKey);
make?.addEventListener("submit", makeKey);
make?.elements.name.addEventListener("input", ({ target }) => (target.dataset.edited = "true"));
model.addEventListener("change", showModel);
model.addEventListener("change", () => localStorage.setItem(MODEL, model.value));
addEventListener("hashchange", show);
const last = localStorage.getItem(MODEL);
if ([...model.options].some((option) => option.value === last)) model.value = last;
if (!model.disabled) showModel();
if (key) showKey();
show();
