/** Ten short tests to read first: what a tensor engine is, from a device to gradients. */

import { afterAll, beforeAll, expect, it } from 'vitest';
import { autograd, type CpuInfo, Device, ops, ShapeError, scope, Tensor } from '../lib';

let device: Device;
beforeAll(async () => {
  device = await Device.open('cpu');
});
afterAll(() => device.close());

it('a device says what it is', () => {
  const { backend, threads, simd } = device.info() as CpuInfo;
  expect(backend).toBe('cpu');
  expect(threads).toBeGreaterThan(0);
  expect(simd).toMatch(/\w+/);
});

it('a tensor holds numbers in the memory of a device', async () => {
  const x = Tensor.from(device, [1, 2, 3, 4, 5, 6], [2, 3]);
  expect([x.shape, x.dtype, x.bytes]).toEqual([[2, 3], 'f32', 24]);
  expect(await x.read()).toEqual(new Float32Array([1, 2, 3, 4, 5, 6]));
  x.dispose();
});

it('an op returns at once and computes in the background; reading waits', async () => {
  const x = Tensor.from(device, [1, 3, 10, 30], [2, 2]);
  const weight = Tensor.from(device, [1, 1], [2]);
  const bias = Tensor.from(device, [0, 5], [2]);
  const y = ops.layerNorm(x, weight, bias);
  for (const value of await y.read()) expect([-1, 6]).toContain(Math.round(value));
  for (const tensor of [x, weight, bias, y]) tensor.dispose();
});

it('memory is given back by hand, and every byte is counted by what it is for', () => {
  const weights = Tensor.zeros(device, [1000], { kind: 'weights' });
  expect(device.memory()).toMatchObject({ currentBytes: 4000, current: { weights: 4000, activations: 0 } });
  weights.dispose();
  expect(device.memory().currentBytes).toBe(0);
});

it('a scope gives back everything but its result', async () => {
  const y = scope(() => {
    const x = Tensor.from(device, [1, 2], [2]);
    return ops.scale(ops.add(x, x), 10);
  });
  expect(device.memory().blocks).toBe(1);
  expect(await y.read()).toEqual(new Float32Array([20, 40]));
  y.dispose();
});

it('half precision takes half the bytes and rounds', async () => {
  const x = Tensor.from(device, [1, 1.001, 2.7], [3], { dtype: 'bf16' });
  expect(x.bytes).toBe(6);
  expect(await x.read()).toEqual(new Float32Array([1, 1, 2.703125]));
  x.dispose();
});

it('the gradient of a loss by any tensor', async () => {
  const logits = Tensor.from(device, [0, 0], [1, 2]);
  const labels = Tensor.from(device, new Int32Array([0]), [1]);
  const { value, grads } = autograd.valueAndGrad(() => ops.softmaxCrossEntropy(logits, labels).loss, { logits });
  expect((await value.read())[0]).toBeCloseTo(Math.log(2));
  expect(await grads.logits.read()).toEqual(new Float32Array([-0.5, 0.5]));
  for (const tensor of [logits, labels, value, grads.logits]) tensor.dispose();
});

it('what is frozen keeps nothing for backward', () => {
  const x = Tensor.zeros(device, [4, 8]);
  const row = Tensor.zeros(device, [8]);
  const tape = new autograd.Tape();
  scope(() => void tape.run(() => ops.layerNorm(x, row, row)));
  expect(tape.report()).toEqual([]);
  for (const tensor of [x, row]) tensor.dispose();
});

it('a planning device knows how much a program needs without running it', async () => {
  const plan = await Device.open('cpu', { plan: true });
  const x = Tensor.empty(plan, [64, 197, 768], { dtype: 'bf16' });
  ops.gelu(x);
  expect(plan.memory().peakBytes).toBe(2 * 64 * 197 * 768 * 2);
  await plan.close();
});

it('a mistake has a class, a code and a sentence', () => {
  const x = Tensor.zeros(device, [2, 8]);
  const weight = Tensor.zeros(device, [7]);
  const bias = Tensor.zeros(device, [8]);
  const call = () => ops.layerNorm(x, weight, bias);
  expect(call).toThrow(ShapeError);
  expect(call).toThrow(expect.objectContaining({ code: 'SIDETUNE_SHAPE', argument: 'weight' }));
  expect(call).toThrow("layerNormForward: 'weight' has shape [7], expected [d] = [8] (d from 'x')");
  for (const tensor of [x, weight, bias]) tensor.dispose();
});
