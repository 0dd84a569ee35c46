/** What the benches are made of. */
import { expect, test } from 'vitest';
import { ratioInTurn, summarize, table } from '../../bench/harness';
import { setups } from '../../bench/setup';

test('ratioInTurn: what changes from turn to turn changes both', () => {
  expect(ratioInTurn([2, 20, 4], [1, 10, 2])).toBe(2);
  expect(ratioInTurn([2, 30, 8], [1, 10, 2])).toBe(3);
  expect(ratioInTurn([2, 4, 100], [1, 1])).toBe(3); // the third turn is not over
});

test('summarize: the median of odd and even numbers of samples', () => {
  expect(summarize([3, 1, 2])).toEqual({ min: 1, median: 2, max: 3 });
  expect(summarize([4, 1, 3, 2])).toEqual({ min: 1, median: 2.5, max: 4 });
  expect(summarize([7])).toEqual({ min: 7, median: 7, max: 7 });
});

test('table: aligned, and valid Markdown', () => {
  const columns = [
    { title: 'name', value: ({ name }: { name: string }) => name, align: 'left' as const },
    { title: 'n', value: ({ name }: { name: string }) => String(name.length) },
  ];
  expect(table(columns, [{ name: 'dtl' }, { name: 'dtlPlus' }]).split('\n')).toEqual([
    '| name    |   n |',
    '| ------- | --: |',
    '| dtl     |   3 |',
    '| dtlPlus |   7 |',
  ]);
  expect(table(columns, []).split('\n')).toHaveLength(2);
});

test('setups: every combination, start blocks only where they can be chosen', () => {
  const list = setups({
    model: 'vit_tiny_patch16_224',
    methods: ['linear', 'dtlPlus', 'dtlPlusStar'],
    dtype: ['bf16'],
    batch: [1, 2],
    startBlock: [3, 7],
    retain: ['activations'],
    prefix: ['keep'],
  });
  expect(list.map(({ batch, method, startBlock }) => [batch, method, startBlock])).toEqual([
    [1, 'linear', undefined],
    [1, 'dtlPlus', 3],
    [1, 'dtlPlus', 7],
    [1, 'dtlPlusStar', undefined],
    [2, 'linear', undefined],
    [2, 'dtlPlus', 3],
    [2, 'dtlPlus', 7],
    [2, 'dtlPlusStar', undefined],
  ]);
});
