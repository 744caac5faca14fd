// Images in an answer. Those in the text itself and those of this gateway are shown. One of another
// host is fetched after a click, without a referrer: in a frame whose policy admits that host alone.

import { make } from "../panels/dom.js";
import { words } from "../panels/words.js";
import { escape } from "./code.js";

const DATA = "data:image/(?:png|jpeg|gif|webp|avif);base64,";
const BLOCK = new RegExp(`^ {0,3}!\\[([^\\]\\n]{0,300})\\]\\((${DATA}[A-Za-z0-9+/=]+)(?:(\\))[ \\t]*(?:\\n+|$)|$)`);
const PEEK = 100; // characters of an image whose data has no end, or none yet
const OWN = /\/(?:static|pages\/api\/chat\/messages)\//;
const page = document.getElementById("chat")?.dataset ?? {};
const loaded = new Set(); // addresses that the user has loaded

/** An image with its data has more characters than a paragraph may have. */
export const extensions = [
  {
    name: "picture",
    level: "block",
    tokenizer(text) {
      const match = BLOCK.exec(text);
      return match ? { type: "picture", raw: match[0], text: match[1], href: match[2], whole: Boolean(match[3]) } : undefined;
    },
    renderer: (token) => `<p>${token.whole ? image(token) : `${escape(token.raw.slice(0, PEEK))} …`}</p>\n`,
  },
];

function image({ href, text }) {
  return `<span data-picture="${escape(href)}">${escape(text)}</span>`;
}

/** Renderer for `marked.use`: the place of an image, which passes the cleaning. */
export const renderer = { image };

/** Put the images into their places. */
export function pictures(element) {
  for (const place of element.querySelectorAll("[data-picture]")) {
    const source = place.dataset.picture;
    const alt = place.textContent;
    place.removeAttribute("data-picture");
    const url = URL.parse(source, location.href);
    if (shown(source, url)) place.replaceChildren(make("img", { src: source, alt, loading: "lazy" }));
    else if (["http:", "https:"].includes(url?.protocol)) {
      const frame = remote(url, alt);
      const link = place.closest("a"); // a link must not have buttons in it
      if (link) link.after(frame);
      else place.replaceWith(frame);
    }
  }
}

function shown(source, url) {
  if (new RegExp(`^${DATA}`).test(source)) return true;
  return url?.origin === location.origin && OWN.test(url.pathname);
}

function remote({ href, host }, alt) {
  const frame = make("span", { className: "picture" });
  const open = make("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, words("rich.open"));
  const show = () => {
    loaded.add(href);
    const src = `${page.api}/picture?${new URLSearchParams({ address: href })}`;
    const title = alt || words("rich.picture", { host });
    frame.replaceChildren(make("iframe", { src, title, sandbox: "", credentialless: true, referrerPolicy: "no-referrer", loading: "lazy" }), make("span", { className: "picture-line" }, alt || host, open));
  };
  const load = make("button", { type: "button", className: "quiet", onclick: show }, words("rich.load"));
  const named = make("span", { className: "note" }, words("rich.picture", { host }));
  if (loaded.has(href)) show();
  else frame.append(...(alt ? [make("span", {}, alt)] : []), make("span", { className: "picture-line" }, named, page.api ? load : "", open));
  return frame;
}
