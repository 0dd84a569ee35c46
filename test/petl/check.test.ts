/** The gradient check that authors of methods use, on every method of the house, and on one that is wrong. */

import { describe, expect, it } from 'vitest';
import { autograd, MethodError } from '../../lib';
import { record } from '../../lib/autograd/tape';
import * as ops from '../../lib/ops';
import * as petl from '../../lib/petl';
import { Tensor } from '../../lib/tensor';
import { onCpu, openDevice } from '../each_target';

// Elsewhere the goldens hold gradients; this is about the check.
describe.runIf(onCpu)('petl.check', () => {
  const start = { startBlock: 2 };
  const cases: [string, () => Promise<autograd.GradientCheck[]>][] = [
    ['linear', () => petl.check(petl.linear, {})],
    ['full', () => petl.check(petl.full, {}, { directions: 1 })],
    ['bitfit', () => petl.check(petl.bitfit, {}, { directions: 1 })],
    ['vptShallow', () => petl.check(petl.vptShallow, { prompts: 2 })],
    ['vptDeep', () => petl.check(petl.vptDeep, { prompts: 2 })],
    ['adapter', () => petl.check(petl.adapter, { bottleneck: 3 })],
    ['adaptFormer', () => petl.check(petl.adaptFormer, { bottleneck: 3, scale: 1 })],
    ['lst', () => petl.check(petl.lst, { reduction: 4 }, { directions: 1 })],
    ['lora', () => petl.check(petl.lora, { rank: 3 })],
    ['noah', () => petl.check(petl.noah, { sizes: 2 })],
    ['factTt', () => petl.check(petl.factTt, { rank: 3 }, { directions: 1 })],
    ['factTk', () => petl.check(petl.factTk, { rank: 3 })],
    ['ssf', () => petl.check(petl.ssf, {}, { directions: 1 })],
    ['dtl', () => petl.check(petl.dtl, { ...start, beta: 1 })],
    ['dtlPlus', () => petl.check(petl.dtlPlus, { ...start, beta: 1 })],
    ['dtlPlusStar', () => petl.check(petl.dtlPlusStar, { beta: 1 })],
  ];

  it('knows all methods', () => {
    const known = new Set([...cases.map(([name]) => name), 'noahSupernet']);
    for (const name of petl.methodNames()) expect(known).toContain(name);
  });

  it.each(cases)('%s', async (_name, run) => {
    const rows = await run();
    expect(rows.map(({ name }) => name)).toContain('head.weight');
    for (const { name, error, gradient } of rows) {
      expect(error, name).toBeLessThan(2e-2);
      expect(Math.abs(gradient), `${name} has a gradient to be checked`).toBeGreaterThan(1e-6);
    }
  });

  it('finds a gradient that is wrong', async () => {
    const wrong = petl.define(
      'wrongly',
      {},
      {
        parameters: ({ config }, init) => ({
          factor: { shape: [config.dim], init: init.constant(1) },
          shift: { shape: [config.dim], init: init.zeros() },
        }),
        // An op whose backward forgets the factor.
        afterBlock: (_i, z, p) => {
          const y = ops.scaleShift(z, p.factor!, p.shift!);
          return record('halved', { y }, ops.scale(y, 1), {
            backward: ({ gradOut }) => ({ y: ops.scale(gradOut, 0.5) }),
          });
        },
      },
    );
    await expect(petl.check(wrong, {})).rejects.toThrow(MethodError);
    await expect(petl.check(wrong, {})).rejects.toThrow(/the gradient of 'factor' is .* differences of the loss say/);
  });
});

describe('autograd.check', () => {
  it('checks any loss, and gives parameters their numbers back', async () => {
    const one = await openDevice();
    const x = Tensor.from(
      one,
      Float32Array.from({ length: 12 }, (_, i) => Math.sin(i)),
      [4, 3],
    );
    const weight = Tensor.from(
      one,
      Float32Array.from({ length: 6 }, (_, i) => Math.cos(i)),
      [2, 3],
    );
    const labels = Tensor.from(one, [0, 1, 1, 0], [4], { dtype: 'i32' });
    const before = await weight.read();
    const bytes = one.memory().currentBytes;
    const [row] = await autograd.check(() => ops.softmaxCrossEntropy(ops.linear(x, weight), labels).loss, { weight });
    expect(row!.name).toBe('weight');
    expect(row!.error).toBeLessThan(1e-3);
    expect(row!.gradient).not.toBe(0);
    expect(await weight.read()).toEqual(before);
    expect(one.memory().currentBytes).toBe(bytes);
    await one.close();
  });
});
