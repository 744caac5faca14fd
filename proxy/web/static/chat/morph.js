// Changes a part of the page into another with as few steps as possible, so that what is read, chosen
// or focused in it stays there while an answer grows.

/** Make the children of `element` like those of `wanted`, which is taken apart. Nodes that are the
 * same stay, and texts that only grew are continued: selections, focus, open folds and scroll
 * positions in them survive. */
export function morph(element, wanted) {
  const old = [...element.childNodes];
  const next = [...wanted.childNodes];
  next.forEach((one, n) => {
    if (!old[n]) element.append(one);
    else if (!alike(old[n], one)) old[n].replaceWith(one);
    else if (one.nodeType === Node.TEXT_NODE) retext(old[n], one.data);
    else morph(old[n], one);
  });
  for (const one of old.slice(next.length)) one.remove();
}

function alike(one, other) {
  if (one.nodeName !== other.nodeName) return false;
  if (one.nodeType !== Node.ELEMENT_NODE) return true;
  const names = one.getAttributeNames();
  return names.length === other.attributes.length && names.every((name) => one.getAttribute(name) === other.getAttribute(name));
}

/** Insert only what is new: replacing the text would drop a selection in it. */
function retext(node, text) {
  const { data } = node;
  if (data === text) return;
  let same = 0;
  while (same < data.length && data[same] === text[same]) same += 1;
  node.replaceData(same, data.length - same, text.slice(same));
}
