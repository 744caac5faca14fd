// The API reference: gives the document to the viewer, and the viewer the page's colours.

import { words } from "./words.js";

const NARROW = matchMedia("(max-width: 767px)"); // where the viewer has no room for its list of routes
const DARK = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = { "bg-color": "--bg", "text-color": "--ink", "primary-color": "--accent", "nav-bg-color": "--surface", "nav-text-color": "--ink" };
const FIRST = "#post-/v1/chat/completions"; // what a reader sees first
const OPEN = 3; // groups: OpenAI, Anthropic, Ollama
const viewer = document.querySelector("rapi-doc");
const drawn = new MutationObserver(mend);
const key = document.querySelector('[data-part="key"]');

/** Give the viewer the theme of the page, and its colours as the hexadecimal numbers it reads. */
function paint() {
  const { theme } = document.documentElement.dataset;
  const dark = theme === "dark" || (theme === "system" && DARK.matches);
  viewer.setAttribute("theme", dark ? "dark" : "light");
  const styles = getComputedStyle(document.documentElement);
  for (const [attribute, variable] of Object.entries(COLOURS)) {
    // As it is written: light-dark(#ffffff, #14161a).
    const pair = styles.getPropertyValue(variable).match(/#[0-9a-f]{6}/gi);
    if (pair) viewer.setAttribute(attribute, pair.at(dark ? -1 : 0));
  }
}

/** Change the document for readers: aliases are left out, only the first groups are open, and
 * examples name a model of this gateway, so that they can be sent as they are. */
function adapt(spec) {
  spec.servers = [{ url: new URL(document.body.dataset.home, location).href.replace(/\/$/, "") }];
  spec.tags.forEach((tag, number) => (tag["x-tag-expanded"] = number < OPEN));
  for (const ways of Object.values(spec.paths)) {
    for (const [method, operation] of Object.entries(ways)) {
      if (operation["x-alias"]) delete ways[method];
      operation.summary = operation.summary.replaceAll("`", "");
      const body = operation.requestBody?.content["application/json"];
      if (body) exemplify(body);
    }
  }
  nameItems(spec.components.schemas);
  return spec;
}

/** The viewer shows an example only if it has a name. */
function exemplify(body) {
  const { example } = body;
  delete body.example;
  if (example.model && viewer.dataset.model) example.model = viewer.dataset.model;
  body.examples = { example: { value: example } };
}

/** The viewer fails on lists whose items may be anything. */
function nameItems(schema) {
  for (const part of Object.values(schema)) {
    if (!part || typeof part !== "object") continue;
    if ([part.type].flat().includes("array") && !Object.keys(part.items ?? {}).length) part.items = { type: "object" };
    nameItems(part);
  }
}

async function load() {
  const answer = await fetch(viewer.dataset.document);
  if (!answer.ok) throw new Error(answer.statusText);
  const spec = adapt(await answer.json());
  await customElements.whenDefined("rapi-doc");
  if (!location.hash && !NARROW.matches) history.replaceState(null, "", FIRST);
  await viewer.loadSpec(spec);
  mend();
  key?.addEventListener("input", useKey);
}

/** Make usable without a mouse and without sight what the viewer leaves so, now and when it draws. */
function mend() {
  const requests = [...viewer.shadowRoot.querySelectorAll("api-request")].map((element) => element.shadowRoot);
  for (const root of [viewer.shadowRoot, ...requests]) {
    drawn.observe(root, { childList: true, subtree: true });
    // A page has one main part, and each navigation its name.
    for (const inner of root.querySelectorAll("main")) Object.assign(inner, { role: "region", ariaLabel: words("viewer.title") });
    for (const list of root.querySelectorAll("nav")) {
      if (list.matches("nav nav")) list.role = "none";
      else list.ariaLabel = words("viewer.routes");
    }
    for (const field of root.querySelectorAll("textarea:not([aria-label])")) field.ariaLabel = words("viewer.body");
    for (const text of root.querySelectorAll("pre:not([tabindex])")) text.tabIndex = 0;
  }
}

/** Let the viewer send the key; it is in the field alone. */
function useKey() {
  const value = key.value.trim();
  if (value) viewer.setApiKey("key", value);
  else viewer.removeAllSecurityKeys();
}

paint();
DARK.addEventListener("change", paint);
viewer.setAttribute("render-style", NARROW.matches ? "view" : "focused");
load().catch(() => (document.querySelector('[data-part="failed"]').textContent = words("viewer.failed")));
