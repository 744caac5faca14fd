// Titles that the model writes after the first answer, unless the user has turned them off.

const OFF = "slotproxy no titles"; // key in the browser's local storage
const LOOKS = [1, 2, 3, 6, 12, 20, 30]; // seconds between two looks for a title

/** `box` is the checkbox of the setting. */
export function titleSetting(box) {
  box.checked = localStorage.getItem(OFF) === null;
  box.addEventListener("change", () => {
    try {
      if (box.checked) localStorage.removeItem(OFF);
      else localStorage.setItem(OFF, "");
    } catch {
      // The storage is full: the setting lasts as long as the page.
    }
  });
}

/** Look for the title of a conversation until it has one that stays: `read()` returns the
 * conversation, `show(conversation)` is called then. */
export async function awaitTitle(read, show) {
  for (const seconds of LOOKS) {
    await new Promise((done) => setTimeout(done, 1000 * seconds));
    const talk = await read().catch(() => null);
    if (talk && !talk.settings.plain_title) return show(talk);
  }
}
