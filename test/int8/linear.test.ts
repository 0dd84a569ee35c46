import { beforeAll, describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { type CpuInfo, Device, type DeviceOptions } from '../../lib/device';
import { linear, linearAdd_, type PackedWeight, packWeight, unpackWeight } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { Random } from '../random';

// Rounding to 8 bits as native/cpu/int8.h has it, in float64; and how far a product may be off for it.
interface Rounded {
  /** The weight as it is kept. */
  weight: Float64Array;
  /** Half a step of each row of x and of each output's weight. */
  halfStep: { x: Float64Array; weight: Float64Array };
}

function rounded(x: Float32Array, weight: Float32Array, I: number, levels: number): Rounded {
  const rows = (data: Float32Array): Float32Array[] =>
    Array.from({ length: data.length / I }, (_, row) => data.subarray(row * I, (row + 1) * I));
  const scales = rows(weight).map((row) => row.reduce((most, w) => Math.max(most, Math.abs(w)), 0) / 127);
  const spans = rows(x).map(
    (row) => (row.reduce((most, v) => Math.max(most, v), 0) - row.reduce((least, v) => Math.min(least, v), 0)) / levels,
  );
  return {
    weight: Float64Array.from(weight, (w, i) => {
      const scale = scales[Math.floor(i / I)]!;
      return scale > 0 ? Math.round(w / scale) * scale : 0;
    }),
    halfStep: {
      x: Float64Array.from(spans, (step) => step / 2),
      weight: Float64Array.from(scales, (scale) => scale / 2),
    },
  };
}

const shapes: [rows: number, O: number, I: number][] = [
  [1, 1, 1],
  [1, 5, 3],
  [197, 100, 768],
  [65, 193, 70],
  [130, 400, 257],
];

function numbers(random: Random, count: number, scale = 1): Float32Array {
  return Float32Array.from({ length: count }, () => random.normal() * scale);
}

describe.each(['', 'AVX2', 'scalar'])('linear with a weight in int8, SIMD %s', (simd) => {
  const open = async (options: DeviceOptions = {}): Promise<Device> => {
    if (simd) process.env.SIDETUNE_SIMD = simd;
    try {
      return await Device.open('cpu', { guards: true, ...options });
    } finally {
      delete process.env.SIDETUNE_SIMD;
    }
  };

  describe.each(['f32', 'bf16'] as const)('x in %s', (dtype) => {
    it.each(shapes)('rows %i, O %i, I %i: within what 8 bits cost', async (rows, O, I) => {
      await using device = await open();
      const random = new Random(rows + O + I);
      const shift = 0.7; // numbers are not centred: the row's zero matters
      const x = Tensor.from(
        device,
        numbers(random, rows * I).map((v) => v + shift),
        [rows, I],
        { dtype },
      );
      const weight = Tensor.from(device, numbers(random, O * I, 1 / Math.sqrt(I)), [O, I]);
      const bias = numbers(random, O);
      const given = (await x.read()) as Float32Array;
      const packed = packWeight(weight, { dtype: 'i8' });
      const out = (await linear(x, packed, Tensor.from(device, bias, [O])).read()) as Float32Array;
      const wide = (await weight.read()) as Float32Array;
      const { weight: kept, halfStep } = rounded(given, wide, I, (device.info() as CpuInfo).int8Levels);
      let worst = 0;
      for (let n = 0; n < rows; n++) {
        for (let o = 0; o < O; o++) {
          let sum = bias[o]!;
          let bound = 0;
          let size = Math.abs(sum);
          for (let i = 0; i < I; i++) {
            const product = given[n * I + i]! * kept[o * I + i]!;
            sum += product;
            size += Math.abs(product);
            bound += Math.abs(kept[o * I + i]!);
          }
          // Half a step for each number of x, as much for the row's zero, and rounding of the result.
          const allowed = bound * 2.02 * halfStep.x[n]! + size * (dtype === 'bf16' ? 2 ** -8 : 1e-6) + 1e-6;
          worst = Math.max(worst, Math.abs(out[n * O + o]! - sum) / allowed);
        }
      }
      expect(worst).toBeLessThan(1);
      expect(Math.max(...halfStep.weight)).toBeGreaterThan(0);
    });
  });

  it('keeps a weight to half a step of its output, and what unpacks packs to the same', async () => {
    await using device = await open();
    const [O, I] = [300, 70];
    const data = numbers(new Random(3), O * I);
    const packed = packWeight(Tensor.from(device, data, [O, I]), { dtype: 'i8' });
    const back = (await unpackWeight(packed).read()) as Float32Array;
    const { weight } = rounded(new Float32Array(I), data, I, 255);
    expect(Math.max(...back.map((w, i) => Math.abs(w - weight[i]!)))).toBeLessThan(1e-6);
    const again = (await unpackWeight(
      packWeight(Tensor.from(device, back, [O, I]), { dtype: 'i8' }),
    ).read()) as Float32Array;
    expect(Math.max(...again.map((w, i) => Math.abs(w - back[i]!)))).toBeLessThan(1e-6);
  });

  it('one bit pattern for all thread counts', async () => {
    const results: string[] = [];
    for (const threads of [1, 2, 3]) {
      await using device = await open({ threads });
      const random = new Random(9);
      const x = Tensor.from(device, numbers(random, 130 * 96), [130, 96], { dtype: 'bf16' });
      const packed = packWeight(Tensor.from(device, numbers(random, 400 * 96), [400, 96]), { dtype: 'i8' });
      results.push(Buffer.from(await linear(x, packed).readBytes()).toString('base64'));
    }
    expect(new Set(results).size).toBe(1);
  });

  it('GELU and residual stand behind it as behind any product', async () => {
    await using device = await open();
    const random = new Random(4);
    const x = Tensor.from(device, numbers(random, 67 * 64), [67, 64]);
    const packed = packWeight(Tensor.from(device, numbers(random, 40 * 64), [40, 64]), { dtype: 'i8' });
    const residual = Tensor.from(device, numbers(random, 67 * 40), [67, 40]);
    const plain = (await linear(x, packed).read()) as Float32Array;
    const added = (await linear(x, packed, undefined, { residual }).read()) as Float32Array;
    const numbersOfResidual = (await residual.read()) as Float32Array;
    expect(added).toEqual(plain.map((v, i) => Math.fround(v + numbersOfResidual[i]!)));
    const bent = (await linear(x, packed, undefined, { activation: 'gelu' }).read()) as Float32Array;
    expect(bent.some((v, i) => v !== plain[i])).toBe(true);
    expect(bent.every((v, i) => plain[i]! < 8 || v === plain[i])).toBe(true);
  });

  it('extremes: large and tiny rows, rows of zeros, and NaN and infinity in a row of their own', async () => {
    await using device = await open();
    const I = 40;
    const rows = [1e4, 1e38, 1e-30, 0, Number.NaN, Number.POSITIVE_INFINITY, 1].map((scale) =>
      Array.from({ length: I }, (_, i) => (Number.isFinite(scale) ? scale * Math.sin(i + 1) : i === 7 ? scale : 1)),
    );
    const data = Float32Array.from(rows.flat());
    const packed = packWeight(Tensor.from(device, new Float32Array(I).fill(1), [1, I]), { dtype: 'i8' });
    const out = (await linear(Tensor.from(device, data, [rows.length, I]), packed).read()) as Float32Array;
    const exact = rows.map((row) => row.reduce((sum, v) => sum + v, 0));
    for (const row of [0, 1, 2, 6]) {
      const span = Math.max(...rows[row]!.map(Math.abs));
      expect(Math.abs(out[row]! - exact[row]!) / span).toBeLessThan((I * 2) / 127);
    }
    expect(out[3]).toBe(0);
    expect(out[4]).toBeNaN();
    expect(out[5]).toBeNaN();
  });
});

describe('a weight in int8', () => {
  let device: Device;
  beforeAll(async () => {
    device = await Device.open('cpu', { guards: true });
    return () => device.close();
  });
  const packed = (O: number, I: number): PackedWeight =>
    packWeight(Tensor.from(device, numbers(new Random(1), O * I), [O, I]), { dtype: 'i8' });

  it('takes a byte for a number, and two numbers for each output', () => {
    using weight = packed(768, 768);
    expect(weight.forward.bytes).toBe(768 * 768 + 768 * 8);
  });

  it('is widened where a gradient flows: result and gradient are those of the rounded weight', async () => {
    const random = new Random(2);
    const x = Tensor.from(device, numbers(random, 20 * 48), [20, 48]);
    using weight = packed(30, 48);
    const wide = packWeight(unpackWeight(weight));
    const run = (w: PackedWeight): [Tensor, Tensor] => {
      const tape = new Tape();
      tape.watch(x);
      const out = tape.run(() => linear(x, w));
      tape.seed(out, Tensor.from(device, new Float32Array(20 * 30).fill(1), [20, 30]));
      tape.backward();
      return [out, tape.takeGradient(x)];
    };
    const [out, grad] = run(weight);
    const [expectedOut, expectedGrad] = run(wide);
    expect(await out.read()).toEqual(await expectedOut.read());
    expect(await grad.read()).toEqual(await expectedGrad.read());
    expect(await device.checkGuards()).toBeNull();
  });

  it('is widened where it adds into a window', async () => {
    await scope(async () => {
      const weight = packed(12, 8);
      const x = Tensor.from(
        device,
        new Float32Array(16).map((_, i) => i - 7),
        [2, 8],
      );
      const added = (by: PackedWeight | Tensor): Promise<ArrayLike<number>> =>
        linearAdd_(Tensor.zeros(device, [2, 20]), x, by, { column: 5 }).read();
      expect(await added(weight)).toEqual(await added(unpackWeight(weight)));
      weight.dispose();
    });
  });

  it('gives everything back', () => {
    const before = device.memory().currentBytes;
    scope(() => {
      const weight = packed(30, 48);
      const tape = new Tape();
      const x = Tensor.zeros(device, [2, 48], { dtype: 'bf16' });
      tape.watch(x);
      tape.run(() => linear(x, weight));
      tape.dispose();
      weight.dispose();
    });
    expect(device.memory().currentBytes).toBe(before);
  });

  it('refuses what it cannot do', () => {
    using weight = packed(4, 8);
    const x = Tensor.zeros(device, [2, 8]);
    const refused = (call: () => unknown, code: string, message: RegExp): void => {
      try {
        call();
      } catch (error) {
        expect(error).toMatchObject({ code });
        expect((error as Error).message).toMatch(message);
        return;
      }
      expect.unreachable('the call went through');
    };
    refused(
      () => Tensor.empty(device, [4, 8], { dtype: 'i8', layout: 'packed_transposed' }),
      'SIDETUNE_DTYPE',
      /an i8 weight has layout packed/,
    );
    refused(
      () => linear(x, Tensor.empty(device, [4, 8], { dtype: 'i8' })),
      'SIDETUNE_ARGUMENT',
      /'weight' is plain in i8, expected packed/,
    );
    refused(() => unpackWeight(weight, { dtype: 'i8' }), 'SIDETUNE_ARGUMENT', /'out' is plain in i8, expected packed/);
    refused(
      () => linear(Tensor.zeros(device, [1, 65537]), packed(1, 65537)),
      'SIDETUNE_ARGUMENT',
      /'weight' is i8 with 65537 columns, expected at most 65536 columns/,
    );
  });
});
