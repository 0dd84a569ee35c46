import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { DeviceError, DisposedError } from '../../lib/errors';
import { gelu, layerNorm, lowRankAccumulate_, randomUniform_ } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { openDevice } from '../each_target';

const numbers = (count: number, start: number): Float32Array =>
  Float32Array.from({ length: count }, (_, index) => Math.sin(start + index));

describe('a replay', () => {
  it('computes from what the tensors hold now, to the bit as calls do', async () => {
    await using device = await openDevice({ guards: true });
    const x = Tensor.from(device, numbers(6 * 24, 1), [6, 24]);
    const weight = Tensor.from(device, numbers(24, 2), [24]);
    const bias = Tensor.from(device, numbers(24, 3), [24]);
    const pass = (): Tensor => scope(() => gelu(layerNorm(gelu(x), weight, bias)));
    const replay = device.record(pass);
    expect(replay.calls).toBe(3);
    for (const start of [1, 5, 9]) {
      x.write(numbers(6 * 24, start));
      const expected = pass();
      const want = await expected.read();
      expected.dispose();
      replay.run();
      expect(await replay.result.read()).toEqual(want);
    }
    expect(await device.checkGuards()).toBeNull();
    replay.dispose();
    for (const tensor of [x, weight, bias, replay.result]) tensor.dispose();
    await device.synchronize();
    expect(device.memory().currentBytes).toBe(0);
  });

  it('of forward and backward adds to the gradients of parameters', async () => {
    await using device = await openDevice();
    const x = Tensor.from(device, numbers(5 * 16, 1), [5, 16]);
    const weight = Tensor.from(device, numbers(16, 2), [16]);
    const bias = Tensor.from(device, numbers(16, 3), [16]);
    const step = () => {
      const tape = new Tape();
      for (const tensor of [weight, bias]) tape.watch(tensor);
      const out = tape.run(() => layerNorm(x, weight, bias));
      tape.seed(out, x);
      tape.backward();
      return { out, weight: tape.takeGradient(weight), bias: tape.takeGradient(bias) };
    };
    const replay = device.record(() => scope(step));
    for (const start of [4, 7]) {
      x.write(numbers(5 * 16, start));
      const plain = step();
      const [forWeight, forBias] = await Promise.all([plain.weight.read(), plain.bias.read()]);
      for (const tensor of Object.values(plain)) tensor.dispose();
      replay.run();
      expect(await replay.result.weight.read()).toEqual(forWeight);
      expect(await replay.result.bias.read()).toEqual(forBias);
    }
  });

  it('changes the versions of what it writes', async () => {
    await using device = await openDevice();
    const h = Tensor.zeros(device, [3, 8]);
    const z = Tensor.from(device, numbers(24, 1), [3, 8]);
    const a = Tensor.from(device, numbers(16, 2), [8, 2]);
    const c = Tensor.from(device, numbers(16, 3), [2, 8]);
    const replay = device.record(() => lowRankAccumulate_(h, z, a, c));
    const [versionOfH, versionOfZ] = [h.version, z.version];
    const once = (await h.read()) as Float32Array;
    replay.run();
    expect(h.version).not.toBe(versionOfH);
    expect(z.version).toBe(versionOfZ);
    const twice = (await h.read()) as Float32Array;
    expect(Math.max(...twice.map((value, index) => Math.abs(value - 2 * once[index]!)))).toBeLessThan(1e-5);
  });

  it('keeps its tensors, whoever disposes them', async () => {
    await using device = await openDevice();
    const x = Tensor.from(device, numbers(8, 1), [8]);
    const replay = device.record(() => gelu(x));
    const want = await replay.result.read();
    const alias = replay.result.alias();
    replay.result.dispose();
    x.dispose();
    expect(device.memory().currentBytes).toBe(2 * 32);
    replay.run();
    expect(await alias.read()).toEqual(want);
    replay.dispose();
    alias.dispose();
    await device.synchronize();
    expect(device.memory().currentBytes).toBe(0);
  });

  it('takes no memory, and refuses to run over tensors made since', async () => {
    await using device = await openDevice();
    const x = Tensor.from(device, numbers(4096, 1), [4096]);
    const replay = device.record(() => scope(() => gelu(gelu(gelu(x)))));
    const { currentBytes, peakBytes } = device.memory();
    expect(currentBytes).toBe(2 * 4096 * 4);
    replay.run();
    expect(device.memory()).toMatchObject({ currentBytes, peakBytes });
    const made = Array.from({ length: 4 }, () => Tensor.zeros(device, [4096]));
    if (device.name !== 'cuda-emulated') {
      // There each block is a piece of memory of its own, which nobody else gets.
      expect(() => replay.run()).toThrow(DeviceError);
      expect(() => replay.run()).toThrow(/in use by a tensor made since/);
    }
    for (const tensor of made) {
      expect((await tensor.read()).every((value) => value === 0)).toBe(true);
      tensor.dispose();
    }
    replay.run();
    await device.synchronize();
  });

  it('refuses what it cannot repeat, and the device goes on', async () => {
    await using device = await openDevice();
    const x = Tensor.zeros(device, [8]);
    expect(() => device.record(() => x.write(numbers(8, 1)))).toThrow(
      /^write: a replay would write the bytes of now again/,
    );
    expect(() => device.record(() => randomUniform_(x, { low: 0, high: 1, seed: 1, offset: 0 }))).toThrow(
      /random numbers of now/,
    );
    expect(() => device.record(() => device.record(() => gelu(x)))).toThrow('calls are being recorded already');
    expect(() =>
      device.record(() => {
        throw new RangeError('mine');
      }),
    ).toThrow(RangeError);
    const replay = device.record(() => gelu(x));
    replay.run();
    expect(await replay.result.read()).toEqual(new Float32Array(8));
    replay.dispose();
    replay.dispose();
    expect(() => replay.run()).toThrow(DisposedError);
    expect(replay.calls).toBe(0);
  });

  it('cannot run on a closed device', async () => {
    const device = await openDevice();
    const x = Tensor.zeros(device, [8]);
    const replay = device.record(() => gelu(x));
    await device.close();
    expect(() => replay.run()).toThrow('the device is closed');
    replay.dispose();
    x.dispose();
  });
});
