// The frame of the chat page: the drawer of conversations, the settings panel, and the offers of an
// empty chat.

import { say } from "../panels/dom.js";
import { menu, shade } from "../panels/menu.js";
import { words } from "../panels/words.js";
import { kinds } from "./settings.js";

const KEEPING = "input, .sign, .folder, .filed:not([data-key^='conv']) button, .list-menu summary"; // leave the drawer open

/** `tried(text)` is called to send the text of an offer. */
export function frame(page, form, at, tried) {
  const drawer = (open) => {
    page.classList.toggle("drawn", open);
    at("fold").ariaExpanded = String(open);
  };
  at("fold").addEventListener("click", () => {
    drawer(!page.classList.contains("drawn"));
    if (page.classList.contains("drawn")) at("new").focus();
  });
  page.addEventListener("click", (event) => {
    if (!event.target.closest(`[data-part="drawer"] :is(${KEEPING}), [data-part="fold"], dialog`)) drawer(false);
  });

  const panel = (open) => {
    at("settings").hidden = !open;
    at("adjust").ariaExpanded = String(open);
    page.classList.toggle("adjusting", open);
    (open ? at("preset") : at("adjust")).focus();
  };
  at("adjust").addEventListener("click", () => panel(at("settings").hidden));
  at("settings-close").addEventListener("click", () => panel(false));

  menu(at("acts"), at("talk-actions"));
  shade(page.querySelector(".kinds"));
  // Why a mode is off: a phone shows no titles.
  page.addEventListener("click", ({ target }) => {
    const { lacks } = target.closest("label[data-lacks]")?.dataset ?? {};
    say(at("lacks"), lacks ? words(`chat.lacks.${lacks}`) : "");
  });

  page.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (page.classList.contains("drawn")) {
      drawer(false);
      at("fold").focus();
    } else if (!at("settings").hidden) panel(false);
    else return;
    event.preventDefault();
  });

  for (const offer of page.querySelectorAll("[data-offer]")) {
    offer.addEventListener("click", () => {
      const { offer: kind, text, base, send, attach } = offer.dataset;
      if (attach !== undefined) return at("attach").click();
      form.elements.kind.value = kind;
      if (base) form.elements.base.value = base;
      kinds(form);
      form.elements.text.value = text;
      if (send !== undefined) return tried(text);
      form.elements.text.focus();
      form.elements.text.select();
    });
  }
}
