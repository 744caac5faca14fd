// Plots over time. A `Plot` has a title and a uPlot that follows the page's size and theme.

import { make, say } from "./dom.js";
import { count, date, measure, span, time } from "./form.js";

const HEIGHT = 150;
const DAY = 86400;

/** The axis of times of day, and those of hours and of days in UTC, whose plots have bars; `bar` is
 * what one is wide. */
export const TIMES = { shown: time };
export const HOURS = { shown: time, bar: 3600 };
export const DAYS = {
  shown: date,
  bar: DAY,
  marks: [1, 2, 7, 14, 30, 61, 122].map((days) => days * DAY),
  zone: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
};

const TENS = Array.from({ length: 13 }, (_, n) => 10 ** n);

/** What a plot shows: how a value is written, and the steps that its axis may have. */
export const COUNT = { shown: count, steps: TENS.flatMap((n) => [n, 2 * n, 5 * n]) };
export const MEASURE = { shown: measure };
export const SPAN = {
  shown: span,
  steps: [
    ...[0.001, 0.01, 0.1].flatMap((n) => [n, 2 * n, 5 * n]),
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800,
    ...[1, 2, 3, 6, 12, 24, 48, 120, 240, 480, 960, 2400, 4800, 9600].map((n) => n * 3600),
  ],
};

const BINS = [1, 2, 5, 10, 20, 50];

const plots = new Set();
const redraw = () => plots.forEach((plot) => plot.themed());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new MutationObserver(redraw).observe(document.documentElement, {
  attributes: true,
  attributeFilter: ["data-theme", "class"],
});

export class Plot {
  /** `kind` is COUNT, MEASURE or SPAN, `note(value)` the text for screen readers; `axis` is TIMES,
   * HOURS, DAYS or that of a `Histogram`. The value under the pointer is beside the title. */
  constructor(place, title, kind, note, axis = TIMES) {
    this.axis = axis;
    this.kind = kind;
    this.note = note;
    this.area = make("div", { className: "plot-area", role: "img" });
    this.pointed = make("span", { className: "note", "aria-hidden": "true" });
    const caption = make("figcaption", {}, make("span", {}, title), this.pointed);
    place.append(make("figure", { className: "card plot" }, caption, this.area));
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
    this.area.setAttribute("aria-label", this.note(values.findLast((value) => value !== null)));
  }

  #draw() {
    this.chart?.destroy();
    const style = getComputedStyle(this.area);
    const [ink, grid, line] = ["--panel-note", "--panel-line", "--panel-accent"].map((name) =>
      this.#colour(name),
    );
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    axis.font = `12px ${style.fontFamily}`;
    const { shown, marks, zone, bar, bins } = this.axis;
    const along = { ...axis, size: 26, space: 70, values: (_, ticks) => ticks.map(shown) };
    const up = { ...axis, size: 62, space: 24, values: (_, ticks) => ticks.map((tick) => (tick ? this.kind.shown(tick) : "0")) };
    const half = (bar ?? 0) / 2;
    this.chart = new uPlot(
      {
        width: Math.max(this.area.clientWidth, 100),
        height: HEIGHT,
        legend: { show: false },
        cursor: { x: false, y: false, points: { show: false }, drag: { setScale: false, x: false, y: false } },
        hooks: { setCursor: [(chart) => this.#point(chart.cursor.idx)] },
        ...(zone ? { tzDate: zone } : {}),
        scales: {
          x: { time: !bins, range: (_, first, last) => (bins ? [-half, Math.max(1, this.data[0].length) - half] : [first - half, last + half]) },
          y: { range: (_, low, high) => [0, high > 0 ? high * 1.15 : 1] },
        },
        axes: [
          marks ? { ...along, incrs: marks } : along,
          this.kind.steps ? { ...up, incrs: this.kind.steps } : up,
        ],
        series: [
          {},
          bar
            ? { width: 0, fill: line, paths: uPlot.paths.bars({ size: [0.7, 40] }), points: { show: false } }
            : {
                stroke: line,
                width: 2,
                fill: `color-mix(in srgb, ${line} 14%, transparent)`,
                points: { size: 7, width: 0, fill: line, filter: alone },
                spanGaps: false,
              },
        ],
      },
      this.data,
      this.area,
    );
  }

  #point(index) {
    const value = this.data[1][index ?? -1] ?? null;
    const { shown, named = shown } = this.axis;
    say(this.pointed, value === null ? "" : `${named(this.data[0][index])} · ${this.kind.shown(value)}`);
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

/** A plot of how often values were in each bin: [from, to, how often]. */
export class Histogram extends Plot {
  constructor(place, title, kind, note) {
    let bins = [];
    const axis = {
      bins: true,
      bar: 1,
      marks: BINS,
      shown: (n) => (bins[n] ? kind.shown(bins[n][0]) : ""),
      named: (n) => `${kind.shown(bins[n][0])} – ${kind.shown(bins[n][1])}`,
    };
    super(place, title, COUNT, note, axis);
    this.fill = (now) => {
      bins = now;
      this.set([...bins.keys()], bins.map((bin) => bin[2]));
    };
  }
}

/** The places of values that have no neighbour: there is no line through them. */
function alone(chart, series) {
  const values = chart.data[series];
  const gap = (n) => (values[n] ?? null) === null;
  return [...values.keys()].filter((n) => !gap(n) && gap(n - 1) && gap(n + 1));
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

  /** Return the columns up to now: times, requests in the minute before each, first token, speed.
   * Before `began` nothing is known. */
  columns(now, began) {
    const last = Math.floor(now / this.step) * this.step;
    const columns = [[], [], [], []];
    for (let at = last - this.span + this.step; at <= last; at += this.step) {
      const [requests, first, speed] = this.samples.get(at) ?? [at + this.step > began ? 0 : null, null, null];
      [at, requests, first, speed].forEach((value, n) => columns[n].push(value));
    }
    for (const at of this.samples.keys()) if (at < last - this.span) this.samples.delete(at);
    const minute = Math.round(60 / this.step);
    const sum = (counts) => counts.reduce((all, n) => all + (n ?? 0), 0);
    columns[1] = columns[1].map((own, n, counts) =>
      own === null ? null : sum(counts.slice(Math.max(0, n + 1 - minute), n + 1)),
    );
    return columns;
  }
}
