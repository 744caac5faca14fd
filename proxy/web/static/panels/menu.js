// A menu under a button, and rows that scroll sideways.

/** Open `list` with `button`. Its links and buttons are reached with the arrow keys; Escape, Tab and a
 * click close it. */
export function menu(button, list) {
  const open = (yes, focus = true) => {
    list.hidden = !yes;
    button.ariaExpanded = String(yes);
    if (focus) (yes ? items()[0] : button)?.focus();
  };
  const items = () => [...list.querySelectorAll("a, button")];
  button.addEventListener("click", () => open(list.hidden));
  list.addEventListener("click", () => open(false, false));
  document.addEventListener("pointerdown", ({ target }) => {
    if (!list.hidden && !list.contains(target) && !button.contains(target)) open(false, false);
  });
  const key = (event) => {
    if (list.hidden || event.isComposing) return;
    const all = items();
    const at = all.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at < 0 ? -1 : at - 1, Home: 0, End: -1 }[event.key];
    if (next !== undefined) all.at(next % all.length).focus();
    else if (event.key === "Escape") open(false);
    else {
      if (event.key === "Tab") open(false);
      return;
    }
    event.preventDefault();
    event.stopPropagation(); // Escape would also stop an answer
  };
  for (const element of [button, list]) element.addEventListener("keydown", key);
}

/** Shade the ends of a row behind which there is more, and show its current link. */
export function shade(row) {
  const draw = () => {
    const ends = [];
    if (row.scrollLeft > 1) ends.push("start");
    if (row.scrollLeft + row.clientWidth < row.scrollWidth - 1) ends.push("end");
    row.dataset.more = ends.join(" ");
  };
  const current = row.querySelector("[aria-current]");
  if (current) row.scrollLeft = current.offsetLeft - (row.clientWidth - current.offsetWidth) / 2;
  row.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(draw).observe(row);
}
