// Builds elements without markup in strings, so that text from servers and models stays text.

/** Create an element: `make("p", {className: "x", onclick: f, "aria-label": "y"}, "text",
 * child)`. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name in element && !name.startsWith("aria-")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
const ICONS = new URL("../icons.svg", import.meta.url).pathname;

/** Create an icon of icons.svg. It is decoration: name the button that it is in. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${ICONS}#${name}`);
  svg.append(use);
  return svg;
}

/** Set an element's text, unless it has that text already. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Copy a text; returns whether it is in the clipboard. Browsers have one for scripts only on HTTPS
 * and localhost; elsewhere the old command copies a selection. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const area = make("textarea", { value: text, className: "unseen", "aria-hidden": "true" });
    // An open dialog leaves nothing outside of it to be selected.
    (before?.closest("dialog") ?? document.querySelector(".panel") ?? document.body).append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    before?.focus();
    return copied;
  }
}

/** Keep one child of `list` for each of `items`, in order: `key(item)` identifies it, `create()`
 * creates it with an `update(item)` method. Focus and open folds survive. */
export function keyed(list, items, key, create) {
  const children = new Map([...list.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, place) => {
    const name = String(key(item));
    let child = children.get(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    children.delete(name);
    if (list.children[place] !== child) list.insertBefore(child, list.children[place] ?? null);
    child.update(item);
  });
  for (const child of children.values()) child.remove();
}

/** Whether this page has an address that works only on this machine. */
export const isLocal = () => /^(localhost|127\.|\[::1\])/.test(location.hostname);
