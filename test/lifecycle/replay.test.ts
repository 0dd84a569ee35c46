import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import type { Device } from '../../lib/device';
import { ArgumentError, DeviceError, DisposedError, MemoryError } from '../../lib/errors';
import { gelu, layerNorm, lowRankAccumulate_, randomUniform_ } from '../../lib/ops';
import { keep, scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { openDevice } from '../each_target';

const numbers = (count: number, start: number): Float32Array =>
  Float32Array.from({ length: count }, (_, index) => Math.sin(start + index));
const nothing = (): void => {};
// On cuda-emulated each block is a piece of memory of its own, which nobody else gets.
const sharesMemory = (device: Device): boolean => device.name !== 'cuda-emulated';

describe('a replay', () => {
  it('computes from the inputs of each run, to the bit as calls do', async () => {
    await using device = await openDevice({ guards: true });
    const weight = Tensor.from(device, numbers(24, 2), [24]);
    const bias = Tensor.from(device, numbers(24, 3), [24]);
    const pass = ({ x }: { x: Tensor }): Tensor => scope(() => gelu(layerNorm(gelu(x), weight, bias)));
    const input = (start: number): Tensor => Tensor.from(device, numbers(6 * 24, start), [6, 24]);
    const expected: unknown[] = [];
    for (const start of [1, 5, 9]) {
      using x = input(start);
      using y = pass({ x });
      expected.push(await y.read());
    }
    const { replay, result } = device.record({ x: input(1) }, pass);
    expect(replay.calls).toBe(3);
    expect(await result.read()).toEqual(expected[0]);
    result.dispose();
    for (const [index, start] of [1, 5, 9].entries()) {
      using y = replay.run(({ x }) => x.write(numbers(6 * 24, start)));
      expect(await y.read()).toEqual(expected[index]);
    }
    expect(await device.checkGuards()).toBeNull();
    replay.dispose();
    weight.dispose();
    bias.dispose();
    await device.synchronize();
    expect(device.memory().currentBytes).toBe(0);
  });

  it('reads what tensors from before hold now', async () => {
    await using device = await openDevice();
    const x = Tensor.from(device, numbers(8, 1), [8]);
    const { replay, result } = device.record({}, () => gelu(x));
    result.dispose();
    x.write(numbers(8, 2));
    const again = replay.run(nothing);
    const want = gelu(x);
    expect(await again.read()).toEqual(await want.read());
  });

  it('of forward and backward gives the gradients of parameters', async () => {
    await using device = await openDevice();
    const weight = Tensor.from(device, numbers(16, 2), [16]);
    const bias = Tensor.from(device, numbers(16, 3), [16]);
    const step = ({ x }: { x: Tensor }) =>
      scope(() => {
        const tape = new Tape();
        for (const tensor of [weight, bias]) tape.watch(tensor);
        const out = tape.run(() => layerNorm(x, weight, bias));
        tape.seed(out, x);
        tape.backward();
        return { out, grads: [tape.takeGradient(weight), tape.takeGradient(bias)], name: 'layer norm' };
      });
    const input = (start: number): Tensor => Tensor.from(device, numbers(5 * 16, start), [5, 16]);
    const dispose = ({ out, grads }: ReturnType<typeof step>): void => {
      for (const tensor of [out, ...grads]) tensor.dispose();
    };
    const { replay, result } = device.record({ x: input(1) }, step);
    dispose(result);
    for (const start of [4, 7]) {
      const x = input(start);
      const plain = step({ x });
      const want = await Promise.all(plain.grads.map((grad) => grad.read()));
      dispose(plain);
      x.dispose();
      const again = replay.run((inputs) => inputs.x.write(numbers(5 * 16, start)));
      expect(again.name).toBe('layer norm');
      expect(again.grads[0]!.kind).toBe('gradients');
      expect(await Promise.all(again.grads.map((grad) => grad.read()))).toEqual(want);
      dispose(again);
    }
  });

  it('changes the versions of what it writes', async () => {
    await using device = await openDevice();
    const h = Tensor.zeros(device, [3, 8]);
    const z = Tensor.from(device, numbers(24, 1), [3, 8]);
    const a = Tensor.from(device, numbers(16, 2), [8, 2]);
    const c = Tensor.from(device, numbers(16, 3), [2, 8]);
    const { replay } = device.record({}, () => {
      lowRankAccumulate_(h, z, a, c);
    });
    const [versionOfH, versionOfZ] = [h.version, z.version];
    const once = (await h.read()) as Float32Array;
    replay.run(nothing);
    expect(h.version).not.toBe(versionOfH);
    expect(z.version).toBe(versionOfZ);
    const twice = (await h.read()) as Float32Array;
    expect(Math.max(...twice.map((value, index) => Math.abs(value - 2 * once[index]!)))).toBeLessThan(1e-5);
  });

  it('holds no memory between runs, and counts in a run what the recording took', async () => {
    await using device = await openDevice();
    const bytes = 4096 * 4;
    const { replay, result } = device.record({ x: Tensor.zeros(device, [4096]) }, ({ x }) =>
      scope(() => {
        const y = gelu(x);
        x.dispose();
        return gelu(gelu(gelu(y)));
      }),
    );
    result.dispose();
    const { peakBytes, atPeak } = device.memory();
    expect(peakBytes).toBe(4 * bytes);
    expect(device.memory()).toMatchObject({ currentBytes: 0, blocks: 0 });
    device.resetPeak();
    const again = replay.run(nothing);
    expect(device.memory()).toMatchObject({ currentBytes: bytes, peakBytes, atPeak, blocks: 1 });
    const alias = again.alias();
    again.dispose();
    replay.dispose();
    expect(await alias.read()).toEqual(new Float32Array(4096));
    alias.dispose();
    expect(device.memory()).toMatchObject({ currentBytes: 0, blocks: 0 });
  });

  it('does not run past the limit', async () => {
    await using device = await openDevice({ memoryLimit: 60_000 });
    const { replay, result } = device.record({}, () => scope(() => gelu(gelu(Tensor.zeros(device, [4096])))));
    result.dispose();
    using other = Tensor.zeros(device, [4096]);
    if (!replay.obstacle) expect(() => replay.run(nothing)).toThrow(MemoryError);
    other.dispose();
    expect(replay.obstacle).toBeUndefined();
    replay.run(nothing);
  });

  it('does not run over tensors made since, nor over its own results', async () => {
    await using device = await openDevice();
    const { replay, result } = device.record({ x: Tensor.zeros(device, [4096]) }, ({ x }) =>
      scope(() => gelu(gelu(gelu(x)))),
    );
    expect(replay.obstacle).toContain('of an earlier run are still in use');
    expect(() => replay.run(nothing)).toThrow(DeviceError);
    result.dispose();
    const made = Array.from({ length: 4 }, () => Tensor.zeros(device, [4096]));
    if (sharesMemory(device)) {
      expect(replay.obstacle).toContain('in use by a tensor made since');
      expect(() => replay.run(nothing)).toThrow(/in use by a tensor made since; dispose what was made since/);
    }
    for (const tensor of made) {
      expect((await tensor.read()).every((value) => value === 0)).toBe(true);
      tensor.dispose();
    }
    expect(replay.obstacle).toBeUndefined();
    let kept: Tensor | undefined;
    const keepOne = (): void => {
      kept = keep(Tensor.zeros(device, [4096 * 4]));
    };
    if (sharesMemory(device)) expect(() => replay.run(keepOne)).toThrow(DeviceError);
    kept?.dispose();
    expect(() =>
      replay.run(() => {
        throw new RangeError('mine');
      }),
    ).toThrow(RangeError);
    replay.run(nothing).dispose();
    expect(device.memory().currentBytes).toBe(0);
  });

  it('does not run without the tensors that its calls use', async () => {
    await using device = await openDevice();
    const x = Tensor.from(device, numbers(8, 1), [8]);
    const { replay, result } = device.record({}, () => gelu(x));
    result.dispose();
    x.dispose();
    expect(() => replay.run(nothing)).toThrow('a tensor that the recorded calls use was disposed');
  });

  it('refuses what it cannot repeat, and the device goes on', async () => {
    await using device = await openDevice();
    const x = Tensor.zeros(device, [8]);
    expect(() => device.record({}, () => x.write(numbers(8, 1)))).toThrow(
      /^write: a replay would write the bytes of now again/,
    );
    expect(() => device.record({}, () => randomUniform_(x, { low: 0, high: 1, seed: 1, offset: 0 }))).toThrow(
      /random numbers of now/,
    );
    expect(() => device.record({}, () => device.record({}, () => gelu(x)))).toThrow('calls are being recorded already');
    expect(() =>
      device.record({}, () => {
        throw new RangeError('mine');
      }),
    ).toThrow(RangeError);
    expect(() => device.record({}, () => x)).toThrow(ArgumentError);
    x.dispose();
    let kept: Tensor | undefined;
    const input = (): Tensor => Tensor.zeros(device, [8]);
    expect(() =>
      device.record({ x: input() }, (inputs) => {
        kept = inputs.x.alias();
      }),
    ).toThrow(/an input has other handles, or 'body' kept one/);
    kept?.dispose();
    expect(device.memory().currentBytes).toBe(0);
    const { replay, result } = device.record({ x: input() }, (inputs) => gelu(inputs.x));
    result.dispose();
    expect(await replay.run((inputs) => inputs.x.write(new Float32Array(8))).read()).toEqual(new Float32Array(8));
    replay.dispose();
    replay.dispose();
    expect(() => replay.run(nothing)).toThrow(DisposedError);
    expect(replay.calls).toBe(0);
  });

  it('cannot run on a closed device', async () => {
    const device = await openDevice();
    const x = Tensor.zeros(device, [8]);
    const { replay, result } = device.record({}, () => gelu(x));
    result.dispose();
    await device.close();
    expect(() => replay.run(nothing)).toThrow('the device is closed');
    replay.dispose();
    x.dispose();
  });
});
