// Changes a part of the page into another with as few steps as possible, so that what is read, chosen
// or focused in it stays there while an answer grows.

/** Make the children of `element` like those of `wanted`, which is taken apart. Nodes that are the
 * same stay, and texts that only grew are continued: selections, focus, open folds and scroll
 * positions in them survive. */
export function morph(element, wanted) {
  const old = [...element.childNodes];
  const next = [...wanted.childNodes];
  next.forEach((child, n) => {
    if (!old[n]) element.append(child);
    else if (!alike(old[n], child)) old[n].replaceWith(child);
    else if (child.nodeType === Node.TEXT_NODE) retext(old[n], child.data);
    else morph(old[n], child);
  });
  for (const child of old.slice(next.length)) child.remove();
}

function alike(node, other) {
  if (node.nodeName !== other.nodeName) return false;
  if (node.nodeType !== Node.ELEMENT_NODE) return true;
  const names = node.getAttributeNames();
  return names.length === other.attributes.length && names.every((name) => node.getAttribute(name) === other.getAttribute(name));
}

/** Insert only what is new: replacing the text would drop a selection in it. */
function retext(node, text) {
  const { data } = node;
  if (data === text) return;
  let same = 0;
  while (same < data.length && data[same] === text[same]) same += 1;
  node.replaceData(same, data.length - same, text.slice(same));
}
