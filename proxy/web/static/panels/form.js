// Formats numbers in the language of the page.

const language = document.documentElement.lang || "en";
const plain = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(language, { notation: "compact", maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat(language, { maximumSignificantDigits: 15 });
const part = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat(language, {
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});
const day = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });

const date_only = new Intl.DateTimeFormat(language, { month: "short", day: "numeric", timeZone: "UTC" });

export const whole_number = (value) => plain.format(value);
export const count = (number) => (number < 10000 ? plain : short).format(number);
export const measure = (number) => fine.format(number);
export const exact = (number) => whole.format(number); // as it was set
export const percent = (number) => part.format(number);
export const time = (seconds) => clock.format(new Date(seconds * 1000));
export const date = (seconds) => date_only.format(new Date(seconds * 1000)); // of UTC
export const moment = (seconds) => day.format(new Date(seconds * 1000));

/** Format a time of today as "14:05", any other with its day. */
export function recent(seconds) {
  const today = new Date().toDateString() === new Date(seconds * 1000).toDateString();
  return (today ? time : moment)(seconds);
}

const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });

/** Format a time that is known to a number of seconds as "3 hours ago", "yesterday". */
export function ago(seconds, precision) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  if (past < 2 * precision) return relative.format(0, precision < 3600 ? "minute" : "hour");
  if (past < 86400) return relative.format(-Math.round(past / 3600), "hour");
  return relative.format(-Math.round(past / 86400), "day");
}

/** Format seconds as "350 ms", "4.2 s", "3 min", "2 h" or "5 d". */
export function span(seconds) {
  const unit = (value, name) =>
    new Intl.NumberFormat(language, {
      style: "unit",
      unit: name,
      unitDisplay: "short",
      maximumSignificantDigits: value < 10 && name !== "minute" ? 2 : 3,
    }).format(value);
  if (seconds < 1) return unit(Math.round(seconds * 1000), "millisecond");
  if (seconds < 60) return unit(seconds, "second");
  if (seconds < 3600) return unit(Math.round(seconds / 60), "minute");
  if (seconds < 86400) return unit(Math.round(seconds / 3600), "hour");
  return unit(Math.round(seconds / 86400), "day");
}

/** Format bytes as "12 kB". */
export function size(bytes) {
  const names = ["byte", "kilobyte", "megabyte", "gigabyte"];
  let step = 0;
  while (bytes >= 1000 && step < names.length - 1) {
    bytes /= 1000;
    step += 1;
  }
  return new Intl.NumberFormat(language, {
    style: "unit",
    unit: names[step],
    unitDisplay: step ? "short" : "long",
    maximumSignificantDigits: 3,
  }).format(bytes);
}

/** Format bytes as "1.2 GiB", as settings have them. */
export function binary(bytes) {
  const names = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (bytes >= 1000 && step < names.length - 1) {
    bytes /= 1024;
    step += 1;
  }
  return `${fine.format(bytes)} ${names[step]}`;
}
