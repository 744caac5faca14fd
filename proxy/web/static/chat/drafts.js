// Unsent questions by conversation id ("" for a new conversation), so that reloading the tab keeps
// them, for each user of the tab.

const NAME = `slotproxy draft ${document.getElementById("chat").dataset.owner} `;

export const drafts = {
  get: (id) => sessionStorage.getItem(NAME + id) ?? "",
  keep(id, text) {
    try {
      if (text) sessionStorage.setItem(NAME + id, text);
      else sessionStorage.removeItem(NAME + id);
    } catch {
      // The storage is full: the draft stays in its input box.
    }
  },
  clear() {
    for (const key of Object.keys(sessionStorage)) if (key.startsWith(NAME)) sessionStorage.removeItem(key);
  },
};
