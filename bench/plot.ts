/** Plots as SVG that needs nothing but itself: drawn on paper of its own, which is dark where the reader's pages are. */

import { bytes } from '../lib/cli/format';
import { kinds, type MemoryRow } from './memory';

const style = `
text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328; }
text { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; }
.title { font-size: 16px; font-weight: 600; }
.middle { text-anchor: middle; }
.end { text-anchor: end; }
.paper { fill: #ffffff; }
.grid { stroke: #d8dce2; }
.axis { stroke: #6b727c; }
.line { fill: none; }
.level { stroke-dasharray: 6 4; }
.hollow { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #d8dbe0; stroke: #16181d; }
  .paper, .hollow { fill: #16181d; }
  .grid { stroke: #33373f; }
}
`;

/** Okabe and Ito's, told apart by everybody, on white and on black. */
const colours = ['#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#8a8f98'];

const title = 'Peak memory of one training step';
const letter = 7; // width of an average one, in pixels
const lineHeight = 20;
const margin = 24;
const top = 76; // of what is drawn below title and settings

/**
 * The peaks of `bench memory`: against M, a line for each method and setting (Figure 4 of the paper), when there are several M; a bar for each row,
 * by kind of memory, when there are not.
 * @returns the text of an SVG file
 */
export function memoryPlot(rows: readonly MemoryRow[]): string {
  const starts = new Set(rows.flatMap(({ startBlock }) => startBlock ?? []));
  const lines = linesOf(rows);
  const isFigure4 = starts.size > 1 && lines.some((line) => line.length > 1);
  return isFigure4 ? peakAgainstStartBlock(rows, lines, [...starts]) : peakByKind(rows);
}

/** The settings of a row in words; those that all rows share stand under the title, the others name lines and bars. */
const settings: ((row: MemoryRow) => string)[] = [
  ({ method }) => method,
  ({ model }) => model,
  ({ dtype }) => dtype,
  ({ batch }) => `batch ${batch}`,
  ({ retain }) => `retain ${retain}`,
  ({ prefix }) => `prefix ${prefix}`,
];
const startBlock = (row: MemoryRow): string => (row.startBlock === null ? '' : `M ${row.startBlock}`);

function namesOf(rows: readonly MemoryRow[], words: typeof settings): { shared: string; name(row: MemoryRow): string } {
  const isShared = (word: (row: MemoryRow) => string): boolean => new Set(rows.map(word)).size <= 1;
  const name = (chosen: typeof settings) => (row: MemoryRow) =>
    chosen
      .map((word) => word(row))
      .filter(Boolean)
      .join(', ');
  const shared = rows[0] ? name(words.filter(isShared))(rows[0]) : '';
  const own = words.filter((word) => !isShared(word));
  return { shared, name: name(own.length > 0 ? own : words.slice(0, 1)) };
}

/** Rows that differ in M alone. */
function linesOf(rows: readonly MemoryRow[]): MemoryRow[][] {
  const lines = new Map<string, MemoryRow[]>();
  for (const row of rows) {
    const key = settings.map((word) => word(row)).join();
    lines.set(key, [...(lines.get(key) ?? []), row]);
  }
  return [...lines.values()];
}

function peakAgainstStartBlock(rows: readonly MemoryRow[], lines: MemoryRow[][], starts: number[]): string {
  const { shared, name } = namesOf(rows, settings);
  const [left, width, height] = [margin + 56, 480, 300];
  const [right, bottom] = [left + width, top + height];
  const [first, last] = [Math.min(...starts), Math.max(...starts)];
  const scale = byteScale(rows);
  const x = (start: number): number => left + 16 + ((width - 32) * (start - first)) / (last - first);
  const y = (value: number): number => top + height * (1 - value / scale.top);

  const drawn: string[] = [];
  for (const { value, label } of scale.ticks) {
    drawn.push(line(left, y(value), right, y(value), 'grid'), text(left - 8, y(value) + 4, label, 'end'));
  }
  for (let start = first; start <= last; start += Math.ceil((last - first) / 16)) {
    drawn.push(line(x(start), bottom, x(start), bottom + 5, 'axis'));
    drawn.push(text(x(start), bottom + 20, String(start), 'middle'));
  }
  drawn.push(line(left, bottom, right, bottom, 'axis'), line(left, top, left, bottom, 'axis'));
  drawn.push(text(left + width / 2, bottom + 42, 'M, the first block whose output the side network changes', 'middle'));
  const upwards = `translate(${margin + 8} ${top + height / 2}) rotate(-90)`;
  drawn.push(element('text', { class: 'middle', transform: upwards }, `peak, ${scale.unit}`));

  const names = lines.map((series) => name(series[0]!));
  lines.forEach((series, i) => {
    const pen = penOf(i, lines.length);
    const points = series
      .flatMap((row) => (row.startBlock === null ? [] : { start: row.startBlock, peak: row.peakBytes }))
      .sort((a, b) => a.start - b.start);
    const keyY = top + 8 + i * lineHeight;
    const key = { from: [right + margin, keyY], to: [right + margin + 28, keyY] } as const;
    if (points.length > 0) {
      drawn.push(
        polyline(
          pen,
          points.map(({ start, peak }) => [x(start), y(peak)]),
        ),
        polyline(pen, [key.from, key.to]),
      );
      for (const { start, peak } of points) {
        drawn.push(point(pen, x(start), y(peak), `${names[i]}, M ${start}: ${bytes(peak)}`));
      }
      drawn.push(point(pen, key.from[0] + 14, keyY, names[i]!));
    } else {
      const level = y(series[0]!.peakBytes); // a method without M
      drawn.push(
        polyline(
          pen,
          [
            [left, level],
            [right, level],
          ],
          'level',
        ),
        polyline(pen, [key.from, key.to], 'level'),
      );
    }
    drawn.push(text(key.to[0] + 8, keyY + 4, names[i]!));
  });
  const legendWidth = margin + 36 + letter * Math.max(...names.map(({ length }) => length));
  return page(right + legendWidth, Math.max(bottom + 42, top + lines.length * lineHeight), shared, drawn);
}

/** How a line of the plot is drawn; the first of several are wider, so that they show around others that lie on them. */
interface Pen {
  colour: string;
  isHollow: boolean;
  extra: number;
}

function penOf(i: number, count: number): Pen {
  const extra = Math.min(count, 4) - 1 - (i % 4);
  return { colour: colours[i % colours.length]!, isHollow: i >= colours.length, extra };
}

function polyline({ colour, extra }: Pen, path: readonly (readonly [number, number])[], className = ''): string {
  const points = path.map(([x, y]) => `${round(x)},${round(y)}`).join(' ');
  return element('polyline', { class: `line ${className}`.trim(), stroke: colour, 'stroke-width': 2 + extra, points });
}

function point({ colour, isHollow, extra }: Pen, cx: number, cy: number, tip: string): string {
  const paint: Attributes = isHollow ? { class: 'hollow', stroke: colour, 'stroke-width': 2 } : { fill: colour };
  return element('circle', { ...paint, cx, cy, r: 4 + extra }, tooltip(tip));
}

function peakByKind(rows: readonly MemoryRow[]): string {
  const { shared, name } = namesOf(rows, [...settings.slice(0, 1), startBlock, ...settings.slice(1)]);
  const names = rows.map(name);
  const present = kinds.filter((kind) => rows.some(({ bytesByKind }) => bytesByKind[kind] > 0));
  const [left, width] = [margin + 12 + letter * Math.max(0, ...names.map(({ length }) => length)), 480];
  const [pitch, thickness] = [34, 22];
  const height = rows.length * pitch;
  const scale = byteScale(rows);
  const x = (value: number): number => left + (width * value) / scale.top;

  const drawn: string[] = [];
  for (const { value, label } of scale.ticks) {
    drawn.push(line(x(value), top, x(value), top + height, 'grid'));
    drawn.push(text(x(value), top + height + 20, label, 'middle'));
  }
  drawn.push(text(left + width / 2, top + height + 42, `peak, ${scale.unit}`, 'middle'));
  rows.forEach((row, i) => {
    const y = top + i * pitch + (pitch - thickness) / 2;
    let from = 0;
    for (const kind of present) {
      const size = row.bytesByKind[kind];
      const fill = { fill: colours[kinds.indexOf(kind)]!, x: x(from), y, width: x(size) - x(0), height: thickness };
      if (size > 0) drawn.push(element('rect', fill, tooltip(`${name(row)}: ${kind} ${bytes(size)}`)));
      from += size;
    }
    drawn.push(text(left - 8, y + 16, names[i]!, 'end'), text(x(from) + 8, y + 16, bytes(row.peakBytes)));
  });
  drawn.push(line(left, top, left, top + height, 'axis'));

  const legend = left + width + margin + 72; // beside the longest bar's figure
  present.forEach((kind, i) => {
    const y = top + i * lineHeight;
    drawn.push(element('rect', { fill: colours[kinds.indexOf(kind)]!, x: legend, y: y + 2, width: 12, height: 12 }));
    drawn.push(text(legend + 20, y + 12, kind));
  });
  const bottom = Math.max(top + height + 42, top + present.length * lineHeight);
  return page(legend + 20 + 12 * letter, bottom, shared, drawn);
}

/** From 0 to the highest peak or a little more, in steps of 1, 2 or 5 times a power of ten of the unit that fits. */
function byteScale(rows: readonly MemoryRow[]): {
  unit: string;
  ticks: { value: number; label: string }[];
  top: number;
} {
  const highest = Math.max(1, ...rows.map(({ peakBytes }) => peakBytes));
  const unit = highest >= 2 ** 30 ? 'GiB' : highest >= 2 ** 20 ? 'MiB' : 'KiB';
  const size = { GiB: 2 ** 30, MiB: 2 ** 20, KiB: 2 ** 10 }[unit];
  const rough = highest / size / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough)! * power;
  const count = Math.ceil(highest / size / step - 1e-9);
  const ticks = Array.from({ length: count + 1 }, (_, i) => ({ value: i * step * size, label: round(i * step, 6) }));
  return { unit, ticks, top: count * step * size };
}

function page(contentWidth: number, contentHeight: number, subtitle: string, drawn: readonly string[]): string {
  const width = Math.ceil(Math.max(contentWidth, margin + letter * subtitle.length) + margin);
  const height = Math.ceil(contentHeight + margin);
  const content = [
    element('title', {}, escaped(`${title}: ${subtitle}`)),
    element('style', {}, style),
    element('rect', { class: 'paper', width, height }),
    text(margin, 34, title, 'title'),
    text(margin, 54, subtitle),
    ...drawn,
  ].join('\n');
  const size = { viewBox: `0 0 ${width} ${height}`, width, height };
  return `${element('svg', { xmlns: 'http://www.w3.org/2000/svg', role: 'img', ...size }, `\n${content}\n`)}\n`;
}

function line(x1: number, y1: number, x2: number, y2: number, className: string): string {
  return element('line', { class: className, x1, y1, x2, y2 });
}

function text(x: number, y: number, content: string, className?: string): string {
  return element('text', { ...(className ? { class: className } : {}), x, y }, escaped(content));
}

function tooltip(content: string): string {
  return element('title', {}, escaped(content));
}

type Attributes = Record<string, string | number>;

function element(name: string, attributes: Attributes, content = ''): string {
  const list = Object.entries(attributes).map(
    ([key, value]) => ` ${key}="${typeof value === 'number' ? round(value) : escaped(value)}"`,
  );
  return content === '' ? `<${name}${list.join('')}/>` : `<${name}${list.join('')}>${content}</${name}>`;
}

function round(value: number, figures = 5): string {
  return String(Number(value.toPrecision(figures)));
}

function escaped(content: string): string {
  return content.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
}
