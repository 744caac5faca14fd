// Plots over time. A `Plot` has a title and a uPlot that follows the page's size and theme.

import { make } from "./dom.js";
import { date, time } from "./form.js";

const HEIGHT = 150;
const DAY = 86400;

/** The axis of times of day, and that of days in UTC, for plots with a value a day. */
export const TIMES = { shown: time };
export const DAYS = {
  shown: date,
  marks: [1, 2, 7, 14, 30, 61, 122].map((days) => days * DAY),
  zone: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
};

const plots = new Set();
const redraw = () => plots.forEach((plot) => plot.themed());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new MutationObserver(redraw).observe(document.documentElement, {
  attributes: true,
  attributeFilter: ["data-theme", "class"],
});

export class Plot {
  /** `shown(value)` formats a value, `note(value)` the text for screen readers; `axis` is TIMES or
   * DAYS. */
  constructor(place, title, shown, note, axis = TIMES) {
    this.axis = axis;
    this.shown = shown;
    this.note = note;
    this.area = make("div", { className: "plot-area", role: "img" });
    place.append(
      make("figure", { className: "card plot" }, make("figcaption", {}, title), this.area),
    );
    this.data = [[], []];
    this.#draw();
    new ResizeObserver(() => this.#resize()).observe(this.area);
    plots.add(this);
  }

  /** Draw it in the colours of the theme; a plot that was removed from the page is forgotten. */
  themed() {
    if (this.area.isConnected) this.#draw();
    else plots.delete(this);
  }

  set(times, values) {
    this.data = [times, values];
    this.chart.setData(this.data);
    this.area.setAttribute("aria-label", this.note(values.findLast((one) => one !== null)));
  }

  #draw() {
    this.chart?.destroy();
    const style = getComputedStyle(this.area);
    const [ink, grid, line] = ["--panel-note", "--panel-line", "--panel-accent"].map((name) =>
      this.#colour(name),
    );
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    axis.font = `12px ${style.fontFamily}`;
    const { shown, marks, zone } = this.axis;
    const along = { ...axis, space: 70, values: (_, ticks) => ticks.map(shown) };
    this.chart = new uPlot(
      {
        width: Math.max(this.area.clientWidth, 100),
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        ...(zone ? { tzDate: zone } : {}),
        scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.15 : 1] } },
        axes: [
          marks ? { ...along, incrs: marks } : along,
          { ...axis, size: 62, space: 36, values: (_, ticks) => ticks.map(this.shown) },
        ],
        series: [
          {},
          {
            stroke: line,
            width: 2,
            fill: `color-mix(in srgb, ${line} 14%, transparent)`,
            points: { show: true, size: 4, width: 0, fill: line },
            spanGaps: false,
          },
        ],
      },
      this.data,
      this.area,
    );
  }

  /** Return a CSS variable as a colour for canvas. */
  #colour(name) {
    const probe = this.area.appendChild(make("span"));
    probe.style.color = `var(${name})`;
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  }

  #resize() {
    const width = this.area.clientWidth;
    if (width && width !== this.chart.width) this.chart.setSize({ width, height: HEIGHT });
  }
}

/** The samples of the last hour by time. Gaps are null, except in counts, where they are 0. */
export class Hour {
  constructor() {
    this.samples = new Map();
  }

  add(points) {
    this.step = points.step;
    this.span = points.span;
    points.at.forEach((at, n) =>
      this.samples.set(at, [points.requests[n], points.first_token[n], points.speed[n]]),
    );
  }

  /** Return the columns up to now: times, requests per second, first token, speed. Before
   * `began` nothing is known. */
  columns(now, began) {
    const last = Math.floor(now / this.step) * this.step;
    const columns = [[], [], [], []];
    for (let at = last - this.span + this.step; at <= last; at += this.step) {
      const [rate, first, speed] = this.samples.get(at) ?? [at + this.step > began ? 0 : null, null, null];
      [at, rate, first, speed].forEach((value, n) => columns[n].push(value));
    }
    for (const at of this.samples.keys()) if (at < last - this.span) this.samples.delete(at);
    return columns;
  }
}
