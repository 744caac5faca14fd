// What was typed and not asked yet, by the id of its conversation ("" for the one to be begun): a
// reload of this tab loses none of it.

const NAME = "slotproxy draft ";

export const drafts = {
  get: (id) => sessionStorage.getItem(NAME + id) ?? "",
  keep(id, text) {
    try {
      if (text) sessionStorage.setItem(NAME + id, text);
      else sessionStorage.removeItem(NAME + id);
    } catch {
      // There is no more room for it: it stays in its box.
    }
  },
  clear() {
    for (const key of Object.keys(sessionStorage)) if (key.startsWith(NAME)) sessionStorage.removeItem(key);
  },
};
