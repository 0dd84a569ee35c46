import { expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { measure } from '../../lib/kernels';
import { slice } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { slice as reference } from '../reference/slice';

type Range = [from: number, to: number];

function sliceCase(name: string, shape: number[], rows?: Range, columns?: Range, extra: Partial<Case> = {}): Case {
  const window = [rows && `rows ${rows.join('-')}`, columns && `columns ${columns.join('-')}`].filter(Boolean);
  return {
    name: `${[name, ...window].join(', ')} of ${shape.join(' x ')}`,
    inputs: { x: { shape, mean: 0.5 } },
    options: { rows, columns },
    keeps: () => 0,
    only: 'f32',
    ...extra,
  };
}

kernelTest('slice', {
  cases: [
    sliceCase('one number', [1, 1]),
    sliceCase('all of it', [5, 12]),
    sliceCase('first rows', [10, 24], [0, 3]),
    sliceCase('last rows', [10, 24], [7, 10]),
    sliceCase('one row', [10, 7], [4, 5]),
    sliceCase('first columns', [6, 24], undefined, [0, 8]),
    sliceCase('last column', [6, 23], undefined, [22, 23]),
    sliceCase('a window that is aligned', [9, 32], [2, 7], [8, 20]),
    ...[15, 16, 17, 31, 33].map((width) => sliceCase('a window', [6, width + 3], [1, 5], [2, width + 2])),
    sliceCase('many rows', [197, 10], [3, 190], [1, 9]),
    sliceCase('many columns', [4, 3072], [1, 3], [5, 2900]),
    sliceCase('rows for several threads', [900, 40], [10, 880], [4, 36]),
    sliceCase('a vector', [24], undefined, [3, 17]),
    sliceCase('all of a vector', [9]),
    sliceCase('a vector of one number', [1]),
    sliceCase('zeros', [3, 4], [0, 2], undefined, {
      inputs: { x: { shape: [3, 4], values: () => 0 } },
      degenerate: true,
    }),
    sliceCase('large numbers', [5, 20], [1, 4], [2, 9], { inputs: { x: { shape: [5, 20], scale: 1e4 } } }),
  ],
  run: ({ x }, options) => slice(x!, options),
  reference: ({ x }, { rows, columns }) => reference(x!, rows, columns),
  computeInputs: [],
  differentiable: ['x'],
  outputDtype: 'f32',
  // Numbers are copied, each gradient is added to a zero.
  tolerance: { f32: { out: 0, grad: 1 }, bf16: { out: 0, grad: 1 } },
  bad: [
    {
      name: 'more rows than there are',
      call: (tensor) => slice(tensor([4, 8]), { rows: [1, 5] }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'rows',
      message: /sliceForward: 'rows' is \[1, 5\], expected an end of at most 4, the number of rows of 'x'/,
    },
    {
      name: 'more columns than there are',
      call: (tensor) => slice(tensor([4, 8]), { columns: [8, 9] }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'columns',
      message: /'columns' is \[8, 9\], expected an end of at most 8, the number of columns of 'x'/,
    },
    {
      name: 'more columns than a vector has',
      call: (tensor) => slice(tensor([8]), { columns: [0, 9] }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'columns',
    },
    {
      name: 'a second row of a vector',
      call: (tensor) => slice(tensor([8]), { rows: [0, 2] }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'rows',
      message: /an end of at most 1, the number of rows of 'x'/,
    },
    {
      name: 'an end before the start',
      call: (tensor) => slice(tensor([4, 8]), { rows: [3, 1] }),
      code: 'SIDETUNE_SHAPE',
      argument: 'out',
      message: /'out' needs rowTo-rowFrom, but 1 - 3 is less than 0 \(rowFrom, rowTo from 'rows'\)/,
    },
    {
      name: 'an empty window',
      call: (tensor) => slice(tensor([4, 8]), { columns: [3, 3] }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'columns',
      message: /'columns' is \[3, 3\], expected an end behind the start/,
    },
    {
      name: 'a negative start',
      call: (tensor) => slice(tensor([4, 8]), { columns: [-1, 3] }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'columns',
    },
    {
      name: 'a fractional end',
      call: (tensor) => slice(tensor([4, 8]), { columns: [1, 2.5] }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'columns',
    },
    {
      name: 'a window of one number',
      call: (tensor) => slice(tensor([4, 8]), { rows: [1] as never }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'rows',
    },
    {
      name: 'x of three dimensions',
      call: (tensor) => slice(tensor([2, 4, 8]), { rows: [0, 1] }),
      code: 'SIDETUNE_SHAPE',
      argument: 'x',
      message: /'x' has shape \[2, 4, 8\], expected \[R, C\]/,
    },
    {
      name: 'x without dimensions',
      call: (tensor) => slice(tensor([])),
      code: 'SIDETUNE_SHAPE',
      argument: 'x',
    },
    {
      name: 'x in bf16',
      call: (tensor) => slice(tensor([4, 8], 'bf16')),
      code: 'SIDETUNE_DTYPE',
      argument: 'x',
      message: /'x' is bf16, expected f32/,
    },
    {
      name: 'a disposed x',
      call: (tensor) => {
        const x = tensor([4, 8]);
        x.dispose();
        return slice(x);
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'x',
    },
    {
      name: 'something that is no tensor',
      call: () => slice({} as never),
      code: 'SIDETUNE_ARGUMENT',
    },
  ],
});

it('slice: windows that overlap add up in one gradient, without one of full size for each', async () => {
  await onEachTarget(async (device) => {
    await scope(async () => {
      const x = Tensor.zeros(device, [40, 30]);
      const tape = new Tape();
      tape.watch(x);
      const windows: [Range, Range][] = [
        [
          [0, 3],
          [0, 30],
        ],
        [
          [2, 5],
          [4, 9],
        ],
        [
          [39, 40],
          [8, 10],
        ],
      ];
      const outs = tape.run(() => windows.map(([rows, columns]) => slice(x, { rows, columns })));
      for (const out of outs) {
        const ones = Tensor.from(device, new Float32Array(out.bytes / 4).fill(1), out.shape);
        tape.seed(out, ones);
      }
      device.resetPeak();
      const before = device.memory().currentBytes;
      tape.backward();
      expect(device.memory().peakBytes - before).toBe(x.bytes);
      using gradX = tape.takeGradient(x);
      const expected = Float32Array.from({ length: 40 * 30 }, (_, i) => {
        const [row, column] = [Math.floor(i / 30), i % 30];
        const inside = ([from, to]: Range, at: number): boolean => at >= from && at < to;
        return windows.filter(([rows, columns]) => inside(rows, row) && inside(columns, column)).length;
      });
      expect(await gradX.read()).toEqual(expected);
    });
  });
});

it('slice: the bytes that count are those of the window', async () => {
  await onEachTarget(async (device) => {
    using x = Tensor.zeros(device, [40, 30]);
    using gradOut = Tensor.zeros(device, [3, 5]);
    const window = { rows: [2, 5], columns: [4, 9] } as const;
    expect(measure('sliceForward', { x, ...window }).bytes).toBe(2 * gradOut.bytes);
    expect(measure('sliceBackward', { gradOut, gradX: x, ...window }).bytes).toBe(3 * gradOut.bytes);
  });
});
