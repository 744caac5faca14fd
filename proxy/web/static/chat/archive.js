// Imports conversations from a file: an export of these pages, of Open WebUI or of ChatGPT.

import { say } from "../panels/dom.js";
import { words } from "./words.js";

/** The conversations are sent one by one, so a file may be larger than a request. `over()` is
 * called at the end. */
export function archive(at, calls, attempt, tell, over) {
  at("import").addEventListener("change", async () => {
    const [file] = at("import").files;
    at("import").value = "";
    if (!file) return;
    const all = await parsed(file);
    if (!all) return tell(words.no_export(file.name));
    let done = 0;
    for (const one of all) {
      say(at("imported"), words.importing(done + 1, all.length));
      const made = await attempt(async () => (await calls.post("/conversations/import", one)) ?? {});
      if (!made) break;
      done += 1;
    }
    say(at("imported"), words.imported(done));
    over();
  });
}

async function parsed(file) {
  try {
    const data = JSON.parse(await file.text());
    const all = Array.isArray(data) ? data : [data];
    return all.every((one) => typeof one === "object" && one) ? all : null;
  } catch {
    return null;
  }
}
