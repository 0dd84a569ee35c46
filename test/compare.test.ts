import { describe, expect, it } from 'vitest';
import { difference, epsilon, relativeToMaximum } from './compare';

const bound = { roundings: 4, epsilon: epsilon.f32 };

describe('difference', () => {
  const expected = [1, -2, 3, -4];
  it('accepts what differs by rounding', () => {
    expect(difference([1 + 1e-7, -2, 3, -4 - 2e-7], expected, bound)).toBeNull();
  });
  it.each([
    ['a scaled number', [1, -2, 3, -4.001]],
    ['a flipped sign', [1, 2, 3, -4]],
    ['NaN', [1, Number.NaN, 3, -4]],
    ['infinity', [1, -2, Number.POSITIVE_INFINITY, -4]],
    ['a zero', [0, -2, 3, -4]],
    ['too few numbers', [1, -2, 3]],
    ['shifted rows', [-2, 3, -4, 1]],
  ])('rejects %s', (_name, actual) => {
    expect(difference(actual, expected, bound)).not.toBeNull();
  });
  it('rejects anything but zeros where zeros are expected', () => {
    expect(difference([0, 0], [0, 0], bound)).toBeNull();
    expect(difference([0, 1e-30], [0, 0], bound)).not.toBeNull();
    expect(difference([0, Number.NaN], [0, 0], bound)).not.toBeNull();
  });
  it('rejects NaN and infinity where they are expected too: an expectation is a number', () => {
    expect(difference([Number.NaN], [Number.NaN], bound)).not.toBeNull();
  });
  it('names the worst place', () => {
    expect(difference([1, -2, 3.5, -4], expected, bound)).toMatch(/1 of 4 differ; worst at 2: 3.5, expected 3/);
  });
});

describe('relativeToMaximum', () => {
  it('is the largest error over the largest number', () => {
    expect(relativeToMaximum([1, -2.2], [1, -2])).toBeCloseTo(0.1);
    expect(relativeToMaximum([0, 0.5], [0, 0])).toBe(0.5);
  });
  it('never lets NaN or a wrong length pass', () => {
    expect(relativeToMaximum([Number.NaN, 1], [1, 1])).toBe(Number.POSITIVE_INFINITY);
    expect(relativeToMaximum([1], [1, 1])).toBe(Number.POSITIVE_INFINITY);
  });
});
