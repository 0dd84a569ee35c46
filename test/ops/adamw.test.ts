import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { openSafetensors } from '../../lib/io/safetensors';
import { adamwUpdate_ } from '../../lib/ops';
import { Tensor } from '../../lib/tensor';
import { difference, epsilon, relativeToMaximum } from '../compare';
import { onEachTarget } from '../each_target';
import { Random } from '../random';
import { type AdamwState, adamw } from '../reference/adamw';

const golden = path.join(__dirname, '..', 'fixtures', 'goldens', 'adamw.safetensors');
const defaults = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0 };

describe('adamw', () => {
  it('golden: five steps at five learning rates', async () => {
    const file = await openSafetensors(golden);
    const start = await file.readFloat32('in.param');
    const grads = await file.readFloat32('in.grads');
    const expected = await file.readFloat32('out.params');
    await file.close();
    const size = start.length;
    await onEachTarget(async (device) => {
      using parameter = Tensor.from(device, start, [size]);
      using m = Tensor.zeros(device, [size]);
      using v = Tensor.zeros(device, [size]);
      for (let step = 1; step <= 5; step++) {
        using gradient = Tensor.from(device, grads.slice((step - 1) * size, step * size), [size]);
        adamwUpdate_(
          { parameters: [parameter], firstMoments: [m], secondMoments: [v], gradients: [gradient] },
          { lr: step / 1000, step, weightDecay: 0.05 },
        );
        const want = expected.subarray((step - 1) * size, step * size);
        expect(relativeToMaximum(await parameter.read(), want), `step ${step}`).toBeLessThanOrEqual(2e-6);
      }
    });
  });

  // Lists that share their numbers out unevenly: a boundary between threads falls inside the large one.
  const shapes = [[1], [3, 5], [16], [17], [2, 9001], [33]];

  async function train(threads: number, steps: number): Promise<{ got: Float32Array[][]; want: AdamwState[] }> {
    const random = new Random(7);
    const draw = (shape: number[]): Float32Array =>
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random.normal());
    const start = shapes.map(draw);
    const grads = Array.from({ length: steps }, () =>
      // Every third number has no gradient: it decays all the same.
      shapes.map((shape) => draw(shape).map((value, i) => (i % 3 === 2 ? 0 : value * 10 ** ((i % 5) - 3)))),
    );
    const want = start.map((data) => ({
      parameter: Float64Array.from(data),
      firstMoment: new Float64Array(data.length),
      secondMoment: new Float64Array(data.length),
    }));
    let got: Float32Array[][] = [];
    await onEachTarget(
      async (device) => {
        const parameters = start.map((data, i) => Tensor.from(device, data, shapes[i]!));
        const firstMoments = shapes.map((shape) => Tensor.zeros(device, shape));
        const secondMoments = shapes.map((shape) => Tensor.zeros(device, shape));
        for (let step = 1; step <= steps; step++) {
          const gradients = grads[step - 1]!.map((data, i) => Tensor.from(device, data, shapes[i]!));
          adamwUpdate_(
            { parameters, firstMoments, secondMoments, gradients },
            { lr: 0.01, step, beta1: 0.8, beta2: 0.99, eps: 1e-6, weightDecay: 0.1 },
          );
          for (const gradient of gradients) gradient.dispose();
        }
        const all = [parameters, firstMoments, secondMoments];
        got = await Promise.all(
          all.map((list) => Promise.all(list.map((item) => item.read() as Promise<Float32Array>))),
        );
        for (const tensor of all.flat()) tensor.dispose();
      },
      { threads },
    );
    for (let step = 1; step <= steps; step++) {
      for (const [i, state] of want.entries()) {
        adamw(state, grads[step - 1]![i]!, { lr: 0.01, step, beta1: 0.8, beta2: 0.99, eps: 1e-6, weightDecay: 0.1 });
      }
    }
    return { got, want };
  }

  it('many tensors at once agree with float64 after ten steps', async () => {
    const { got, want } = await train(2, 10);
    for (const [i, state] of want.entries()) {
      // A few roundings a step; a step is at most lr/(1 − β₁) large, however small the gradient.
      const bound = { roundings: 60, epsilon: epsilon.f32 };
      expect(difference(got[0]![i]!, state.parameter, bound), `parameter ${i}`).toBeNull();
      expect(difference(got[1]![i]!, state.firstMoment, bound), `first moment ${i}`).toBeNull();
      expect(difference(got[2]![i]!, state.secondMoment, bound), `second moment ${i}`).toBeNull();
    }
  });

  it('the number of threads does not change a bit', async () => {
    const [one, two, three] = [await train(1, 2), await train(2, 2), await train(3, 2)];
    expect(two.got).toEqual(one.got);
    expect(three.got).toEqual(one.got);
  });

  it('two hundred tensors in one call are what they are one by one, to the bit', async () => {
    const sizes = Array.from({ length: 200 }, (_, i) => (i % 50 === 7 ? 5000 : 1 + ((i * 7) % 23)));
    await onEachTarget(async (device) => {
      const random = new Random(11);
      const draw = (): Tensor[] =>
        sizes.map((size) =>
          Tensor.from(
            device,
            Array.from({ length: size }, () => random.normal() ** 2),
            [size],
          ),
        );
      const lists = { parameters: draw(), firstMoments: draw(), secondMoments: draw(), gradients: draw() };
      const names = ['parameters', 'firstMoments', 'secondMoments', 'gradients'] as const;
      const options = { lr: 0.01, step: 3, weightDecay: 0.1 };
      const copies = await Promise.all(names.map((name) => Promise.all(lists[name].map((item) => item.read()))));
      adamwUpdate_(lists, options);
      for (let i = 0; i < sizes.length; i++) {
        const alone = names.map((_, list) => Tensor.from(device, copies[list]![i] as Float32Array, [sizes[i]!]));
        const [parameters, firstMoments, secondMoments, gradients] = alone.map((item) => [item]);
        adamwUpdate_(
          {
            parameters: parameters!,
            firstMoments: firstMoments!,
            secondMoments: secondMoments!,
            gradients: gradients!,
          },
          options,
        );
        for (const [list, name] of names.entries())
          expect(await lists[name][i]!.read(), `${name} ${i}`).toEqual(await alone[list]!.read());
        for (const tensor of alone) tensor.dispose();
      }
      for (const name of names) for (const tensor of lists[name]) tensor.dispose();
    });
  });

  it('a parameter without gradient decays, and with lr 0 nothing moves', async () => {
    await onEachTarget(async (device) => {
      using parameter = Tensor.from(device, [2, -4], [2]);
      using m = Tensor.zeros(device, [2]);
      using v = Tensor.zeros(device, [2]);
      using gradient = Tensor.zeros(device, [2]);
      const tensors = { parameters: [parameter], firstMoments: [m], secondMoments: [v], gradients: [gradient] };
      adamwUpdate_(tensors, { lr: 0.5, step: 1, weightDecay: 0.5 });
      expect(await parameter.read()).toEqual(Float32Array.of(1.5, -3));
      adamwUpdate_(tensors, { lr: 0, step: 2, weightDecay: 0.5 });
      expect(await parameter.read()).toEqual(Float32Array.of(1.5, -3));
    });
  });

  it('late steps are exact: the bias correction of step 100,000 is gone', async () => {
    await onEachTarget(async (device) => {
      using parameter = Tensor.from(device, [1], [1]);
      using m = Tensor.from(device, [0.5], [1]);
      using v = Tensor.from(device, [0.25], [1]);
      using gradient = Tensor.from(device, [0.5], [1]);
      const tensors = { parameters: [parameter], firstMoments: [m], secondMoments: [v], gradients: [gradient] };
      adamwUpdate_(tensors, { lr: 0.125, step: 100_000 });
      expect((await parameter.read())[0]).toBeCloseTo(0.875, 6);
    });
  });

  type Lists = Record<'parameters' | 'firstMoments' | 'secondMoments' | 'gradients', Tensor[]>;
  type Options = Parameters<typeof adamwUpdate_>[1];
  const bad: [
    string,
    (make: (shape: number[], dtype?: 'bf16') => Tensor, lists: Lists) => Partial<Lists>,
    Partial<Options>,
    object,
  ][] = [
    ['no tensors', () => ({ parameters: [] }), {}, { code: 'SIDETUNE_ARGUMENT', argument: 'parameters' }],
    ['a gradient too few', () => ({ gradients: [] }), {}, { code: 'SIDETUNE_ARGUMENT', argument: 'gradients' }],
    [
      'lists that differ in length',
      (make, { gradients }) => ({ gradients: [...gradients, make([4])] }),
      {},
      { code: 'SIDETUNE_SHAPE', argument: 'gradients' },
    ],
    [
      'a gradient of another shape',
      (make) => ({ gradients: [make([5])] }),
      {},
      {
        code: 'SIDETUNE_SHAPE',
        argument: 'gradients',
        message: expect.stringContaining("has a tensor of shape [5] at 0, expected [4] like 'parameters'"),
      },
    ],
    [
      'a bf16 gradient',
      (make) => ({ gradients: [make([4], 'bf16')] }),
      {},
      { code: 'SIDETUNE_DTYPE', argument: 'gradients' },
    ],
    [
      'a moment that is the parameter',
      (_make, { parameters }) => ({ firstMoments: parameters }),
      {},
      { code: 'SIDETUNE_SHAPE' },
    ],
    [
      'something that is no tensor',
      () => ({ gradients: [{}] as never }),
      {},
      { code: 'SIDETUNE_ARGUMENT', argument: 'gradients' },
    ],
    ['step 0', () => ({}), { step: 0 }, { code: 'SIDETUNE_ARGUMENT', argument: 'step' }],
    ['half a step', () => ({}), { step: 1.5 }, { code: 'SIDETUNE_ARGUMENT', argument: 'step' }],
    ['beta2 of 1', () => ({}), { beta2: 1 }, { code: 'SIDETUNE_ARGUMENT', argument: 'beta2' }],
    ['a negative lr', () => ({}), { lr: -1 }, { code: 'SIDETUNE_ARGUMENT', argument: 'lr' }],
    ['NaN for lr', () => ({}), { lr: Number.NaN }, { code: 'SIDETUNE_ARGUMENT', argument: 'lr' }],
    ['eps of 0', () => ({}), { eps: 0 }, { code: 'SIDETUNE_ARGUMENT', argument: 'eps' }],
    ['an unknown option', () => ({}), { momentum: 1 } as never, { code: 'SIDETUNE_ARGUMENT', argument: 'momentum' }],
  ];

  it.each(bad)('bad call: %s', async (_name, change, options, expected) => {
    await onEachTarget(async (device) => {
      const made: Tensor[] = [];
      const make = (shape: number[], dtype: 'f32' | 'bf16' = 'f32'): Tensor => {
        const tensor = Tensor.from(device, new Float32Array(shape[0]!).fill(3), shape, { dtype });
        made.push(tensor);
        return tensor;
      };
      const lists: Lists = {
        parameters: [make([4])],
        firstMoments: [make([4])],
        secondMoments: [make([4])],
        gradients: [make([4])],
      };
      expect(() =>
        adamwUpdate_({ ...lists, ...change(make, lists) }, { ...defaults, lr: 1, step: 1, ...options }),
      ).toThrow(expect.objectContaining(expected));
      expect(await lists.parameters[0]!.read()).toEqual(new Float32Array(4).fill(3));
      for (const tensor of made) tensor.dispose();
    });
  });
});
