// The groups of the list of conversations: pinned, today, yesterday, and so on.

import { words } from "../panels/words.js";

const DAY = 86400000; // milliseconds
const months = new Intl.DateTimeFormat(document.documentElement.lang || "en", { month: "long", year: "numeric" });

/** Return the name of the group of a conversation. */
export function day({ changed, settings }, now = new Date()) {
  if (settings?.pinned) return words("chat.days.pinned");
  const then = new Date(changed * 1000);
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  if (then >= midnight) return words("chat.days.today");
  if (then >= midnight - DAY) return words("chat.days.yesterday");
  if (then >= midnight - 7 * DAY) return words("chat.days.week");
  return months.format(then);
}
