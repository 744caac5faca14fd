// Names of browsers, from what they send as User-Agent.

import { words } from "./words.js";

// The first that fits counts: Edge and Chrome also call themselves Safari, Android also Linux.
const BROWSERS = [
  [/\bEdg(A|iOS)?\//, "Edge"],
  [/\bOPR\//, "Opera"],
  [/\b(Firefox|FxiOS)\//, "Firefox"],
  [/\b(Chrome|Chromium|CriOS|HeadlessChrome)\//, "Chrome"],
  [/\bSafari\//, "Safari"],
  [/^curl\//, "curl"],
];
const LONGEST = 60; // characters of another program
const SYSTEMS = [
  [/\bWindows\b/, "Windows"],
  [/\b(iPhone|iPad|iPod)\b/, "iOS"],
  [/\bAndroid\b/, "Android"],
  [/\bCrOS\b/, "ChromeOS"],
  [/\b(Macintosh|Mac OS X)\b/, "macOS"],
  [/\bLinux\b/, "Linux"],
];

/** A User-Agent as people name it: "Chrome on Linux". */
export function agentName(agent) {
  const [browser, system] = [BROWSERS, SYSTEMS].map((table) => table.find(([pattern]) => pattern.test(agent))?.[1]);
  if (browser && system) return words("sessions.browser", { browser, system });
  return browser || agent.slice(0, LONGEST) || words("sessions.unknown");
}
