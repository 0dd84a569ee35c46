/** The structure of the plots: what is drawn, where it is, and that it is well-formed. */
import { expect, test } from 'vitest';
import { kinds, type MemoryRow } from '../../bench/memory';
import { memoryPlot } from '../../bench/plot';
import type { BytesByKind } from '../../lib/device';

const MiB = 2 ** 20;

/** A row whose peak is half weights, half activations. */
function row(peakBytes: number, settings: Partial<MemoryRow> = {}): MemoryRow {
  const none = Object.fromEntries(kinds.map((kind) => [kind, 0])) as BytesByKind;
  return {
    model: 'vit_tiny',
    method: 'dtl',
    batch: 8,
    dtype: 'f32',
    device: 'cpu',
    startBlock: 7,
    retain: 'activations',
    prefix: 'keep',
    peakBytes,
    bytesByKind: { ...none, weights: peakBytes / 2, activations: peakBytes / 2 },
    parameters: 1,
    ...settings,
  };
}

/** M = 1 … count, ten MiB less for each. */
const falling = (count: number, settings: Partial<MemoryRow> = {}): MemoryRow[] =>
  Array.from({ length: count }, (_, i) => row((200 - 10 * i) * MiB, { startBlock: i + 1, ...settings }));

interface Element {
  name: string;
  attributes: Record<string, string>;
  text: string;
}

/** Reads tags one by one; each must be closed by its own name, and nothing but the five entities may be escaped. */
function parse(svg: string): Element[] {
  const open: Element[] = [];
  const all: Element[] = [];
  let at = 0;
  for (const tag of svg.matchAll(/<(\/?)([a-z]+)((?: [a-zA-Z0-9-]+="[^"<>]*")*)(\/?)>/g)) {
    const between = svg.slice(at, tag.index);
    expect(between).not.toMatch(/[<>]|&(?!#\d+;)/);
    if (open.length > 0) open.at(-1)!.text += between;
    at = tag.index + tag[0].length;
    const [, closes, name, list, isEmpty] = tag;
    if (closes) {
      expect(open.pop()?.name).toBe(name);
      continue;
    }
    const attributes = Object.fromEntries(
      [...list!.matchAll(/ ([\w-]+)="([^"]*)"/g)].map(([, key, value]) => [key!, value!]),
    );
    const element = { name: name!, attributes, text: '' };
    all.push(element);
    if (!isEmpty) open.push(element);
  }
  expect(open).toEqual([]);
  expect(svg.slice(at).trim()).toBe('');
  return all;
}

const named = (svg: string, name: string): Element[] => parse(svg).filter((element) => element.name === name);
const texts = (svg: string): string[] => named(svg, 'text').map(({ text }) => text);
const tips = (svg: string): string[] => named(svg, 'title').map(({ text }) => text);

test('several M: a line with a point for each row, and its key', () => {
  const svg = memoryPlot([...falling(12), ...falling(12, { retain: 'block-inputs' })]);
  expect(named(svg, 'polyline')).toHaveLength(2 + 2);
  expect(named(svg, 'circle')).toHaveLength(24 + 2);
  expect(texts(svg)).toEqual(expect.arrayContaining(['retain activations', 'retain block-inputs']));
  expect(texts(svg)).toContain('dtl, vit_tiny, f32, batch 8, prefix keep'); // what all rows share stands under the title
  expect(texts(svg)).toEqual(expect.arrayContaining(['1', '12', '0', '50', '200', 'peak, MiB']));
  expect(tips(svg)).toContain('retain block-inputs, M 3: 180 MiB');
});

test('points are where their numbers are, whatever order the rows have', () => {
  const svg = memoryPlot(falling(3).reverse());
  const points = named(svg, 'polyline')[0]!
    .attributes.points!.split(' ')
    .map((at) => at.split(',').map(Number));
  const [[x1, y1], [x2, y2], [x3, y3]] = points as [[number, number], [number, number], [number, number]];
  expect(x2 - x1).toBeCloseTo(x3 - x2);
  expect(y2 - y1).toBeCloseTo(y3 - y2);
  const label = (text: string): number => Number(named(svg, 'text').find((one) => one.text === text)!.attributes.x);
  expect([x1, x2, x3]).toEqual([label('1'), label('2'), label('3')]);
  const line = (text: string): number => Number(named(svg, 'text').find((one) => one.text === text)!.attributes.y) - 4;
  const zero = line('0');
  expect((zero - y1) / (zero - line('200'))).toBeCloseTo(200 / 200);
  expect((zero - y3) / (zero - line('200'))).toBeCloseTo(180 / 200);
});

test('a method without M is a level across the lines', () => {
  const svg = memoryPlot([...falling(4), row(150 * MiB, { method: 'full', startBlock: null })]);
  const level = named(svg, 'polyline').find(({ attributes }) => attributes.class === 'line level')!;
  const [from, to] = level.attributes.points!.split(' ').map((at) => at.split(',').map(Number)) as [number[], number[]];
  expect(to[1]).toBe(from[1]);
  expect(to[0]! - from[0]!).toBe(480);
  expect(named(svg, 'circle')).toHaveLength(4 + 1);
});

test('no two M of one setting: a bar for each row, of the kinds that are there', () => {
  const svg = memoryPlot([row(100 * MiB), row(3 * 1024 * MiB, { method: 'full', startBlock: null })]);
  expect(named(svg, 'circle')).toHaveLength(0);
  expect(named(svg, 'rect')).toHaveLength(1 + 2 * 2 + 2); // paper, two kinds in two rows, their keys
  expect(texts(svg)).toEqual(expect.arrayContaining(['dtl, M 7', 'full', '100 MiB', '3.00 GiB', 'peak, GiB']));
  expect(texts(svg).filter((text) => kinds.some((kind) => kind === text))).toEqual(['weights', 'activations']);
  const bars = named(svg, 'rect').filter(({ attributes }) => attributes.height === '22');
  const ends = bars.map(({ attributes: { x, width } }) => Number(x) + Number(width));
  expect(Number(bars[1]!.attributes.x)).toBeCloseTo(ends[0]!, 1); // stacked
  expect((ends[3]! - Number(bars[2]!.attributes.x)) / (ends[1]! - Number(bars[0]!.attributes.x))).toBeCloseTo(30.72, 1);
});

test('a line of its own for each setting that differs', () => {
  const rows = (['f32', 'bf16'] as const).flatMap((dtype) => [1, 8].flatMap((batch) => falling(2, { dtype, batch })));
  const svg = memoryPlot(rows);
  expect(texts(svg)).toEqual(
    expect.arrayContaining(['f32, batch 1', 'f32, batch 8', 'bf16, batch 1', 'bf16, batch 8']),
  );
});

test('text is escaped', () => {
  const svg = memoryPlot([...falling(2, { method: 'a<b' }), ...falling(2, { method: '"c" & d' })]);
  expect(texts(svg)).toEqual(expect.arrayContaining(['a&#60;b', '&#34;c&#34; &#38; d']));
});

test('more lines than colours can be told apart', () => {
  const rows = Array.from({ length: 9 }, (_, i) => falling(2, { batch: i + 1 })).flat();
  const looks = named(memoryPlot(rows), 'circle').map(
    ({ attributes: { fill, stroke, class: name } }) => `${fill}${stroke}${name}`,
  );
  expect(new Set(looks).size).toBe(9);
});

test('without rows there is a page with a title', () => {
  expect(texts(memoryPlot([]))).toContain('Peak memory of one training step');
});
