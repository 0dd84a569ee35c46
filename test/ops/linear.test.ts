import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import type { Device } from '../../lib/device';
import { kernels } from '../../lib/kernels';
import { linear, type PackedWeight, packWeight, unpackWeight } from '../../lib/ops';
import { type DType, Tensor } from '../../lib/tensor';
import { onCpu, onEachTarget } from '../each_target';
import { type BadCall, type Case, kernelTest } from '../kernel_test';
import { Random } from '../random';
import { linear as reference } from '../reference/linear';
import { linearAddTests } from './linear_add';

const size = (shape: readonly number[]): number => shape.reduce((product, length) => product * length, 1);

// Behind a GELU the sum before it is kept; the inputs are not counted.
function linearCase(name: string, xShape: number[], O: number, extra: Partial<Case> = {}): Case {
  const I = xShape.at(-1)!;
  const gelu = extra.options?.activation === 'gelu';
  return {
    name: `${name}${gelu ? ', GELU' : ''}`,
    inputs: { x: { shape: xShape }, weight: { shape: [O, I], scale: 1 / Math.sqrt(I) }, bias: [O] },
    keeps: (bytes) => (gelu ? (size(xShape) / I) * O * bytes : 0),
    ...extra,
  };
}

const gelu = { options: { activation: 'gelu' } };
const golden = (file: string, activation: string) => ({
  file,
  inputs: { x: 'x', weight: 'weight', bias: 'bias' },
  output: 'y',
  options: { activation },
});

// f32: sums of up to 8300 numbers wander by the square root of their count. bf16: the result is rounded once, and once more where a gradient passes the
// GELU; operands are given rounded. On CUDA the bias is rounded, too, and may be three times as large as what it is added to.
const tolerance = { f32: { out: 24, grad: 50 }, bf16: { out: onCpu ? 2 : 4, grad: 4 } };

const bad: BadCall[] = [
  {
    name: 'weight of another width',
    call: (tensor) => linear(tensor([2, 8]), tensor([4, 7]), tensor([4])),
    code: 'SIDETUNE_SHAPE',
    argument: 'weight',
    message: /linearForward: 'weight' has shape \[4, 7\], expected \[O, I\] = \[4, 8\] \(I from 'x', O from 'weight'\)/,
  },
  {
    name: 'weight of one dimension',
    call: (tensor) => linear(tensor([2, 8]), tensor([8])),
    code: 'SIDETUNE_SHAPE',
    argument: 'weight',
  },
  {
    name: 'bias of another length',
    call: (tensor) => linear(tensor([2, 8]), tensor([4, 8]), tensor([8])),
    code: 'SIDETUNE_SHAPE',
    argument: 'bias',
  },
  {
    name: 'residual of another shape',
    call: (tensor) => linear(tensor([2, 8]), tensor([4, 8]), tensor([4]), { residual: tensor([2, 8]) }),
    code: 'SIDETUNE_SHAPE',
    argument: 'residual',
  },
  {
    name: 'residual of another dtype',
    call: (tensor) => linear(tensor([2, 8], 'bf16'), tensor([4, 8]), undefined, { residual: tensor([2, 4]) }),
    code: 'SIDETUNE_DTYPE',
    argument: 'residual',
  },
  {
    name: 'residual behind a GELU',
    call: (tensor) =>
      linear(tensor([2, 8]), tensor([4, 8]), tensor([4]), { activation: 'gelu', residual: tensor([2, 4]) }),
    code: 'SIDETUNE_ARGUMENT',
    argument: 'residual',
    message: /'residual' is given, expected nothing behind an activation/,
  },
  {
    name: 'unknown activation',
    call: (tensor) => linear(tensor([2, 8]), tensor([4, 8]), undefined, { activation: 'tanh' as never }),
    code: 'SIDETUNE_ARGUMENT',
    argument: 'activation',
    message: /'tanh', expected one of 'none', 'gelu'/,
  },
  {
    name: 'x of integers',
    call: (tensor) => linear(tensor([2, 8], 'i32'), tensor([4, 8])),
    code: 'SIDETUNE_DTYPE',
    argument: 'x',
  },
  {
    name: 'bf16 weight for f32 x',
    call: (tensor) => linear(tensor([2, 8]), tensor([4, 8], 'bf16')),
    code: 'SIDETUNE_ARGUMENT',
    argument: 'weight',
    message: /'weight' is bf16, expected f32 like 'x'/,
  },
  {
    name: 'packed weight of another dtype',
    call: (tensor) => {
      const packed = packWeight(tensor([4, 8]));
      try {
        return linear(tensor([2, 8], 'bf16'), packed);
      } finally {
        packed.dispose();
      }
    },
    code: 'SIDETUNE_ARGUMENT',
    argument: 'weight',
    message: /'weight' is packed in f32, expected bf16 like 'x'/,
  },
  {
    name: 'a weight that is packed for the other direction',
    call: (tensor) => {
      const packed = packWeight(tensor([4, 8]));
      const transposed = packed.forBackward();
      try {
        return kernels.linearForward({ x: tensor([2, 8]), weight: transposed });
      } finally {
        packed.dispose();
        transposed.dispose();
      }
    },
    code: 'SIDETUNE_ARGUMENT',
    argument: 'weight',
    message: /'weight' is packed_transposed, expected plain or packed/,
  },
  {
    name: 'a disposed packed weight',
    call: (tensor) => {
      const packed = packWeight(tensor([4, 8]));
      packed.dispose();
      return linear(tensor([2, 8]), packed);
    },
    code: 'SIDETUNE_DISPOSED',
    argument: 'weight',
  },
  {
    name: 'something that is no tensor',
    call: (tensor) => linear(tensor([2, 8]), {} as never),
    code: 'SIDETUNE_ARGUMENT',
    argument: 'weight',
  },
  {
    name: 'gradient of x without weight',
    call: (tensor) => kernels.linearBackward({ gradOut: tensor([2, 4]), x: tensor([2, 8]) }),
    code: 'SIDETUNE_ARGUMENT',
    argument: 'weight',
    message: /'weight' is missing, expected a tensor, since 'gradX' is wanted/,
  },
  {
    name: 'gradient of the weight without x',
    call: (tensor) =>
      kernels.linearBackward({ gradOut: tensor([2, 4]), gradWeight: tensor([4, 8]) }, { wanted: { gradX: false } }),
    code: 'SIDETUNE_ARGUMENT',
    argument: 'x',
  },
  {
    name: 'backward through a GELU without the sum before it',
    call: (tensor) => kernels.linearBackward({ gradOut: tensor([2, 4]), weight: tensor([4, 8]), activation: 'gelu' }),
    code: 'SIDETUNE_ARGUMENT',
    argument: 'preActivation',
  },
  {
    name: 'packing from plain to plain',
    call: (tensor) => kernels.linearPack({ weight: tensor([4, 8]), out: tensor([4, 8]) }),
    code: 'SIDETUNE_ARGUMENT',
    argument: 'out',
  },
  {
    name: 'packing to a dtype that nobody chose',
    call: (tensor) => kernels.linearPack({ weight: tensor([4, 8]) }),
    code: 'SIDETUNE_ARGUMENT',
    argument: 'out',
  },
];

kernelTest('linear', {
  goldens: [
    golden('linear_none_7x24x40', 'none'),
    golden('linear_none_1x768x100', 'none'),
    golden('linear_gelu_7x24x40', 'gelu'),
    golden('linear_gelu_1x768x100', 'gelu'),
  ],
  cases: [
    linearCase('one number', [1, 1], 1),
    linearCase('one row', [1, 24], 5, gelu),
    linearCase('leading dimensions', [2, 3, 2, 7], 5),
    ...[15, 16, 17, 31, 33].map((width) => linearCase(`width ${width}`, [3, width], width, width % 2 ? gelu : {})),
    linearCase('197 tokens', [1, 197, 40], 24, gelu),
    linearCase('a long row', [1, 1000], 19),
    linearCase('tiles in both directions', [260, 70], 200),
    linearCase('a wide row of tiles', [5, 3], 400, gelu),
    linearCase('more rows than one step', [8300, 2], 3, gelu),
    linearCase('f32 weight', [9, 24], 40, {
      inputs: { x: [9, 24], weight: { shape: [40, 24], scale: 0.2, dtype: 'f32' }, bias: [40] },
    }),
    linearCase('zeros', [3, 8], 4, {
      inputs: { x: { shape: [3, 8], scale: 0 }, weight: [4, 8], bias: [4] },
      degenerate: true,
    }),
    // Far out the GELU is x or 0.
    linearCase('large numbers', [7, 24], 9, {
      ...gelu,
      inputs: { x: { shape: [7, 24], scale: 100 }, weight: [9, 24], bias: [9] },
    }),
  ],
  run: ({ x, weight, bias }, options) => linear(x!, weight!, bias!, options),
  reference: ({ x, weight, bias }, options) => reference(x!, weight!, { bias, ...options }),
  computeInputs: ['x', 'weight'],
  differentiable: ['x', 'weight', 'bias'],
  tolerance,
  bad,
});

kernelTest('linear with residual', {
  cases: [
    [1, 1, 1],
    [7, 24, 40],
    [130, 17, 193],
  ].map(([rows, I, O]) => ({
    name: `${rows} x ${I} -> ${O}`,
    inputs: {
      x: [rows!, I!],
      weight: { shape: [O!, I!], scale: 1 / Math.sqrt(I!) },
      bias: [O!],
      residual: [rows!, O!],
    },
    keeps: () => 0,
  })),
  run: ({ x, weight, bias, residual }) => linear(x!, weight!, bias!, { residual }),
  reference: ({ x, weight, bias, residual }) => reference(x!, weight!, { bias, residual }),
  computeInputs: ['x', 'weight', 'residual'],
  differentiable: ['x', 'weight', 'bias', 'residual'],
  tolerance,
  bad: [],
});

kernelTest('linear without bias', {
  cases: [{ name: '7 x 24 -> 40', inputs: { x: [7, 24], weight: { shape: [40, 24], scale: 0.2 } }, keeps: () => 0 }],
  run: ({ x, weight }) => linear(x!, weight!),
  reference: ({ x, weight }) => reference(x!, weight!),
  computeInputs: ['x', 'weight'],
  differentiable: ['x', 'weight'],
  tolerance,
  bad: [],
});

// The second backward finds a gradient of x and adds to it in its epilogue.
kernelTest('linear, of an input that two layers read', {
  cases: [
    [1, 3, 2],
    [7, 24, 40],
    [130, 193, 17],
    [8300, 2, 3],
  ].map(([rows, I, O]) => ({
    name: `${rows} x ${I} -> ${O}`,
    inputs: {
      x: [rows!, I!],
      first: { shape: [O!, I!], scale: 1 / Math.sqrt(I!) },
      second: { shape: [O!, I!], scale: 1 / Math.sqrt(I!) },
    },
    keeps: () => 0,
  })),
  run: ({ x, first, second }) => {
    using once = linear(x!, first!);
    return linear(x!, second!, undefined, { residual: once });
  },
  reference: ({ x, first, second }) => reference(x!, second!, { residual: reference(x!, first!) }),
  computeInputs: ['x', 'first', 'second'],
  differentiable: ['x', 'first', 'second'],
  tolerance: { ...tolerance, bf16: { out: 2 * tolerance.bf16.out, grad: tolerance.bf16.grad } },
  bad: [
    {
      name: 'a gradient from elsewhere where x came out of a GELU',
      call: (tensor) =>
        kernels.linearBackward({
          gradOut: tensor([2, 4]),
          weight: tensor([4, 8]),
          xSlope: tensor([2, 8]),
          residual: tensor([2, 8]),
        }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'residual',
      message: /'residual' is given, expected nothing where x came out of a GELU/,
    },
  ],
});

linearAddTests(tolerance);

describe('packed weights', () => {
  const shapes: [rows: number, I: number, O: number][] = [
    [1, 1, 1],
    [7, 24, 40],
    [5, 33, 17],
    [197, 70, 200],
  ];

  function normal(device: Device, shape: number[], dtype: DType, seed: number): Tensor {
    const random = new Random(seed);
    return Tensor.from(
      device,
      Float32Array.from({ length: size(shape) }, () => random.normal()),
      shape,
      { dtype },
    );
  }

  // The result, and the gradient of x for the result as gradOut.
  async function run(x: Tensor, weight: Tensor | PackedWeight): Promise<Uint8Array[]> {
    const tape = new Tape();
    tape.watch(x);
    const out = tape.run(() => linear(x, weight, undefined, { activation: 'gelu' }));
    tape.seed(out, out);
    const result = await out.readBytes();
    tape.backward();
    const gradX = tape.takeGradient(x);
    const bytes = await gradX.readBytes();
    for (const tensor of [out, gradX]) tensor.dispose();
    return [result, bytes];
  }

  for (const dtype of ['f32', 'bf16'] as const) {
    it(`give the bits that the plain weight gives, ${dtype}`, async () => {
      await onEachTarget(async (device) => {
        for (const [rows, I, O] of shapes) {
          using x = normal(device, [rows, I], dtype, 1);
          using plain = normal(device, [O, I], dtype, 2);
          using packed = packWeight(plain);
          expect(packed.shape).toEqual([O, I]);
          expect(packed.dtype).toBe(dtype);
          expect(await run(x, packed)).toEqual(await run(x, plain));
        }
      });
    });

    it(`come back as they were, ${dtype}`, async () => {
      await onEachTarget(async (device) => {
        for (const [, I, O] of shapes) {
          using plain = normal(device, [O, I], dtype, 3);
          using packed = packWeight(plain);
          using back = unpackWeight(packed);
          using backAgain = Tensor.empty(device, [O, I], { dtype });
          using transposed = packed.forBackward();
          kernels.linearPack({ weight: transposed, out: backAgain });
          const numbers = await plain.read();
          expect(await back.read()).toEqual(numbers);
          expect(await backAgain.read()).toEqual(numbers);
          expect(back.kind).toBe('weights');
        }
      });
    });
  }

  it('are rounded when packed to bf16', async () => {
    await onEachTarget(async (device) => {
      using plain = normal(device, [40, 24], 'f32', 4);
      using rounded = normal(device, [40, 24], 'bf16', 4);
      using packed = packWeight(plain, { dtype: 'bf16' });
      using back = unpackWeight(packed, { dtype: 'bf16', kind: 'side' });
      expect(back.kind).toBe('side');
      expect(await back.read()).toEqual(await rounded.read());
    });
  });

  it('are packed for backward by the call, which keeps nothing', async () => {
    await onEachTarget(async (device) => {
      using x = normal(device, [3, 24], 'f32', 5);
      using plain = normal(device, [40, 24], 'f32', 6);
      const packed = packWeight(plain);
      const { current } = device.memory();
      await run(x, packed);
      expect(device.memory().current).toEqual(current);
      packed.dispose();
      expect(device.memory().current.weights).toBe(0);
    });
  });

  it('keep no x for backward', async () => {
    await onEachTarget(async (device) => {
      using x = normal(device, [3, 24], 'f32', 7);
      using plain = normal(device, [40, 24], 'f32', 8);
      using packed = packWeight(plain);
      const tape = new Tape();
      tape.watch(x);
      using out = tape.run(() => linear(x, packed));
      expect(tape.report()).toEqual([]);
      expect(out.shape).toEqual([3, 40]);
      tape.dispose();
    });
  });
});
