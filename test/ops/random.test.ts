import { describe, expect, it } from 'vitest';
import type { Device } from '../../lib/device';
import { bf16ToFloat32, float32ToBf16 } from '../../lib/io/half';
import { randomKeep_, randomNormal_, randomUniform_ } from '../../lib/ops';
import { Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { normalCdf } from '../reference/gelu';
import { keepOrDrop, normal, normalTail, uniform, words } from '../reference/random';

const sizes = [1, 3, 4, 5, 17, 255, 256, 257, 5001];
const places = [
  { seed: 0, offset: 0 },
  { seed: 42, offset: 1000 },
  { seed: 2 ** 53 - 1, offset: 2 ** 32 - 20 },
];

async function drawn(device: Device, size: number, fill: (out: Tensor) => unknown, dtype: 'f32' | 'bf16' = 'f32') {
  using out = Tensor.empty(device, [size], { dtype });
  expect(fill(out)).toBe(out);
  return (await out.read()) as Float32Array;
}

/** Mean, and moments about it. */
function moments(values: Float32Array): { mean: number; deviation: number; skew: number; kurtosis: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const power = (n: number): number => values.reduce((sum, value) => sum + (value - mean) ** n, 0) / values.length;
  const deviation = Math.sqrt(power(2));
  return { mean, deviation, skew: power(3) / deviation ** 3, kurtosis: power(4) / deviation ** 4 };
}

/** Kolmogorov–Smirnov: √n times the largest distance between the distribution of the values and `cdf`; above 1.95 once in a thousand. */
function distance(values: Float32Array, cdf: (x: number) => number): number {
  const sorted = values.slice().sort();
  const worst = sorted.reduce((max, x, i) => Math.max(max, Math.abs(cdf(x) - (i + 0.5) / sorted.length)), 0);
  return worst * Math.sqrt(values.length);
}

describe('random', () => {
  it('starts with the known answer of Philox4x32-10 for key 0 and counter 0', async () => {
    const known = [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8];
    await onEachTarget(async (device) => {
      const values = await drawn(device, 4, (out) => randomUniform_(out, { seed: 0 }));
      expect([...values]).toEqual(known.map((word) => (word >>> 8) / 2 ** 24));
    });
  });

  it.each(places)('has the bits of the reference, seed $seed, offset $offset', async (place) => {
    await onEachTarget(async (device) => {
      for (const size of sizes) {
        const bits = [...words(place.seed, place.offset, size)];
        const low = Math.fround(-0.3);
        const high = Math.fround(0.7);
        expect(await drawn(device, size, (out) => randomUniform_(out, { low, high, ...place }))).toEqual(
          Float32Array.from(bits, (word) => uniform(word, low, high)),
        );
        const deviation = Math.fround(0.02);
        expect(await drawn(device, size, (out) => randomNormal_(out, { mean: 0.5, deviation, ...place }))).toEqual(
          Float32Array.from(bits, (word) => normal(word, 0.5, deviation, Number.POSITIVE_INFINITY)),
        );
        expect(await drawn(device, size, (out) => randomNormal_(out, { cut: 1.5, ...place }))).toEqual(
          Float32Array.from(bits, (word) => normal(word, 0, 1, 1.5)),
        );
        expect(await drawn(device, size, (out) => randomKeep_(out, { keep: 0.75, ...place }))).toEqual(
          Float32Array.from(bits, (word) => keepOrDrop(word, 0.75)),
        );
      }
    });
  });

  it('bf16 is f32 rounded', async () => {
    await onEachTarget(async (device) => {
      for (const fill of [
        (out: Tensor) => randomNormal_(out, { cut: 2, seed: 3 }),
        (out: Tensor) => randomUniform_(out, { low: -1, seed: 3 }),
      ]) {
        const wide = await drawn(device, 1001, fill);
        expect(await drawn(device, 1001, fill, 'bf16')).toEqual(bf16ToFloat32(float32ToBf16(wide)));
      }
    });
  });

  it('goes on where an offset points, whatever the number of threads', async () => {
    for (const threads of [1, 2, 3]) {
      await onEachTarget(
        async (device) => {
          const all = await drawn(device, 20_000, (out) => randomNormal_(out, { seed: 9, offset: 5 }));
          const later = await drawn(device, 11_111, (out) => randomNormal_(out, { seed: 9, offset: 5 + 1234 }));
          expect(later).toEqual(all.subarray(4 * 1234, 4 * 1234 + later.length));
          const bits = words(9, 5, 20_000);
          for (const i of [0, 777, 10_000, 19_999])
            expect(all[i]).toBe(normal(bits[i]!, 0, 1, Number.POSITIVE_INFINITY));
        },
        { threads },
      );
    }
  });

  // A quarter of a million numbers: standard errors are 1/500 of the deviation.
  const many = 250_000;

  it('uniform numbers are uniform', async () => {
    await onEachTarget(async (device) => {
      const values = await drawn(device, many, (out) => randomUniform_(out, { low: -1, high: 3, seed: 5 }));
      expect(distance(values, (x) => (x + 1) / 4)).toBeLessThan(1.95);
      const { mean, deviation } = moments(values);
      expect(Math.abs(mean - 1)).toBeLessThan(0.01);
      expect(Math.abs(deviation - 4 / Math.sqrt(12))).toBeLessThan(0.01);
      expect(values.every((x) => x >= -1 && x <= 3)).toBe(true);
    });
  });

  it('normal numbers are normal', async () => {
    await onEachTarget(async (device) => {
      const values = await drawn(device, many, (out) => randomNormal_(out, { seed: 6 }));
      expect(distance(values, normalCdf)).toBeLessThan(1.95);
      const { mean, deviation, skew, kurtosis } = moments(values);
      expect(Math.abs(mean)).toBeLessThan(0.01);
      expect(Math.abs(deviation - 1)).toBeLessThan(0.01);
      expect(Math.abs(skew)).toBeLessThan(0.02);
      expect(Math.abs(kurtosis - 3)).toBeLessThan(0.04);
    });
  });

  it.each([0.1, 1, 2.5])('cut at %f deviations truncates, without a pile at the cut', async (c) => {
    await onEachTarget(async (device) => {
      const [deviation, cut] = [0.5, 0.5 * c];
      const values = await drawn(device, many, (out) => randomNormal_(out, { mean: 2, deviation, cut, seed: 7 }));
      const tail = normalCdf(-c);
      expect(distance(values, (x) => (normalCdf((x - 2) / deviation) - tail) / (1 - 2 * tail))).toBeLessThan(1.95);
      expect(values.every((x) => Math.abs(x - 2) <= Math.fround(cut) + 2 ** -22)).toBe(true);
      expect(values.filter((x) => Math.abs(x - 2) >= cut).length).toBeLessThan(10);
    });
  });

  it('keeps with the given probability', async () => {
    await onEachTarget(async (device) => {
      for (const keep of [0.1, 0.9]) {
        const values = await drawn(device, many, (out) => randomKeep_(out, { keep, seed: 8 }));
        const scale = Math.fround(1 / Math.fround(keep));
        expect(values.every((x) => x === 0 || x === scale)).toBe(true);
        expect(Math.abs(values.filter((x) => x > 0).length / many - keep)).toBeLessThan(0.005);
      }
      expect(await drawn(device, 100, (out) => randomKeep_(out, { keep: 1, seed: 8 }))).toEqual(
        new Float32Array(100).fill(1),
      );
    });
  });

  it('a deviation of 0 gives the mean, equal bounds the bound', async () => {
    await onEachTarget(async (device) => {
      const constant = new Float32Array(20).fill(3);
      expect(await drawn(device, 20, (out) => randomNormal_(out, { mean: 3, deviation: 0, cut: 2, seed: 1 }))).toEqual(
        constant,
      );
      expect(await drawn(device, 20, (out) => randomUniform_(out, { low: 3, high: 3, seed: 1 }))).toEqual(constant);
    });
  });

  it('streams of two seeds have nothing in common', async () => {
    await onEachTarget(async (device) => {
      const a = await drawn(device, many, (out) => randomNormal_(out, { seed: 1 }));
      const b = await drawn(device, many, (out) => randomNormal_(out, { seed: 2 ** 32 + 1 }));
      expect(Math.abs(a.reduce((sum, x, i) => sum + x * b[i]!, 0) / many)).toBeLessThan(0.01);
    });
  });

  it("the reference's tail agrees with the normal distribution", () => {
    for (let c = 0; c < 14.9; c += 0.1) expect(Math.abs(normalTail(c) / normalCdf(-c) - 1)).toBeLessThan(1e-8);
  });

  const bad: [string, (out: Tensor) => unknown, string][] = [
    ['no seed', (out) => randomUniform_(out, {} as never), 'seed'],
    ['half a seed', (out) => randomUniform_(out, { seed: 0.5 }), 'seed'],
    ['a negative seed', (out) => randomNormal_(out, { seed: -1 }), 'seed'],
    ['a seed that JavaScript cannot hold', (out) => randomNormal_(out, { seed: 2 ** 53 }), 'seed'],
    ['a negative offset', (out) => randomNormal_(out, { seed: 0, offset: -1 }), 'offset'],
    ['bounds the wrong way round', (out) => randomUniform_(out, { seed: 0, low: 1, high: 0.5 }), 'high'],
    ['bounds too far apart', (out) => randomUniform_(out, { seed: 0, low: -3e38, high: 3e38 }), 'high'],
    ['a negative deviation', (out) => randomNormal_(out, { seed: 0, deviation: -1 }), 'deviation'],
    ['a cut of 0', (out) => randomNormal_(out, { seed: 0, cut: 0 }), 'cut'],
    ['a NaN mean', (out) => randomNormal_(out, { seed: 0, mean: Number.NaN }), 'mean'],
    ['keep of 0', (out) => randomKeep_(out, { seed: 0, keep: 0 }), 'keep'],
    ['keep above 1', (out) => randomKeep_(out, { seed: 0, keep: 1.5 }), 'keep'],
    ['an unknown option', (out) => randomNormal_(out, { seed: 0, std: 1 } as never), 'std'],
  ];
  it.each(bad)('bad call: %s', async (_name, call, argument) => {
    await onEachTarget(async (device) => {
      using out = Tensor.from(device, [1, 2, 3, 4], [4]);
      expect(() => call(out)).toThrow(expect.objectContaining({ code: 'SIDETUNE_ARGUMENT', argument }));
      expect([...(await out.read())]).toEqual([1, 2, 3, 4]);
    });
  });

  it('integers are refused', async () => {
    await onEachTarget(async (device) => {
      using out = Tensor.zeros(device, [4], { dtype: 'i32' });
      expect(() => randomUniform_(out, { seed: 0 })).toThrow(
        expect.objectContaining({ code: 'SIDETUNE_DTYPE', argument: 'out' }),
      );
    });
  });
});
