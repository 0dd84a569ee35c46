import { describe, expect, it } from 'vitest';
import { Rng } from '../../lib/data';
import { philox } from '../../lib/data/rng';
import { ArgumentError } from '../../lib/errors';

const draws = (rng: Rng, n: number) => Array.from({ length: n }, () => rng.uint32());

describe('philox', () => {
  // The known answers that Random123 publishes for philox4x32 with 10 rounds.
  it.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ])('gives the published words for counter %o', (counter, key, expected) => {
    const block = Uint32Array.from(counter);
    philox(block, key[0]!, key[1]!);
    expect([...block]).toEqual(expected);
  });
});

describe('Rng', () => {
  it('starts with the first Philox block of its stream', () => {
    expect(draws(new Rng(0), 4)).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  });

  it('repeats itself for the same seed and stream and for no other', () => {
    const first = draws(new Rng(7, [1, 2, 3]), 9);
    expect(draws(new Rng(7, [1, 2, 3]), 9)).toEqual(first);
    for (const other of [
      new Rng(8, [1, 2, 3]),
      new Rng(7 + 2 ** 32, [1, 2, 3]),
      new Rng(7, [1, 2]),
      new Rng(7, [2, 1, 3]),
      new Rng(7, [1, 2, 4]),
    ]) {
      expect(draws(other, 9)).not.toEqual(first);
    }
    expect(new Set(first).size).toBe(9);
  });

  it('draws uniform numbers in their range with the right mean and variance', () => {
    const rng = new Rng(1);
    const n = 20000;
    const values = Array.from({ length: n }, () => rng.uniform(-1, 3));
    expect(values.every((v) => v >= -1 && v < 3)).toBe(true);
    const mean = values.reduce((a, b) => a + b) / n;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / n;
    // Four standard errors: 4·√(16/12/n) and, for the variance of a uniform, about 4·√(0.8/n)·16/12.
    expect(Math.abs(mean - 1)).toBeLessThan(0.033);
    expect(Math.abs(variance - 16 / 12)).toBeLessThan(0.034);
  });

  it('draws normal numbers with mean 0, variance 1 and normal tails', () => {
    const rng = new Rng(2);
    const n = 20000;
    const values = Array.from({ length: n }, () => rng.normal());
    const mean = values.reduce((a, b) => a + b) / n;
    const variance = values.reduce((a, b) => a + b * b, 0) / n;
    const inside = values.filter((v) => Math.abs(v) < 1.96).length / n;
    expect(Math.abs(mean)).toBeLessThan(0.029);
    expect(Math.abs(variance - 1)).toBeLessThan(0.04);
    expect(Math.abs(inside - 0.95)).toBeLessThan(0.0065);
  });

  it('draws integers evenly', () => {
    const rng = new Rng(3);
    const counts = new Array<number>(7).fill(0);
    for (let i = 0; i < 14000; i++) counts[rng.integer(7)]!++;
    // χ² with 6 degrees of freedom exceeds 22.5 with probability 0.001.
    expect(counts.reduce((sum, count) => sum + (count - 2000) ** 2 / 2000, 0)).toBeLessThan(22.5);
  });

  it('draws integers evenly where 2^32 is far from a multiple', () => {
    const rng = new Rng(8);
    const n = 3 * 2 ** 30;
    let low = 0;
    for (let i = 0; i < 6000; i++) low += rng.integer(n) < 2 ** 30 ? 1 : 0;
    // A third of 6,000 within four standard deviations; remainders without redrawing would give a half.
    expect(Math.abs(low - 2000)).toBeLessThan(147);
  });

  it('permutes: every index once, and every order of three about equally often', () => {
    expect([...new Rng(4).permutation(100)].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    const seen = new Map<string, number>();
    for (let i = 0; i < 6000; i++) {
      const key = new Rng(5, [i]).permutation(3).join('');
      seen.set(key, (seen.get(key) ?? 0) + 1);
    }
    expect(seen.size).toBe(6);
    // χ² with 5 degrees of freedom exceeds 20.5 with probability 0.001.
    expect([...seen.values()].reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0)).toBeLessThan(20.5);
    expect([...new Rng(6).permutation(0)]).toEqual([]);
  });

  it('has a fixed permutation, so that old checkpoints resume', () => {
    expect([...new Rng(0, [1, 0]).permutation(10)]).toEqual([3, 1, 7, 6, 4, 0, 9, 5, 8, 2]);
  });

  it('refuses seeds and streams it cannot hold', () => {
    expect(() => new Rng(-1)).toThrow(ArgumentError);
    expect(() => new Rng(0.5)).toThrow("'seed' is 0.5");
    expect(() => new Rng(0, [1, 2, 3, 4])).toThrow(ArgumentError);
    expect(() => new Rng(0, [2 ** 32])).toThrow(ArgumentError);
    expect(() => new Rng(0).integer(0)).toThrow(ArgumentError);
  });
});
