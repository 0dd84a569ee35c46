/** CUDA calls that fail, one after another: each failure is one of our errors, nothing hangs or crashes, and afterwards a device works. */

import { describe, expect, it } from 'vitest';
import { valueAndGrad } from '../../lib/autograd';
import { Device } from '../../lib/device';
import { MemoryError, SidetuneError } from '../../lib/errors';
import { vit } from '../../lib/models';
import { gelu, linear, softmaxCrossEntropy } from '../../lib/ops';
import { adamW } from '../../lib/optim';
import { dtlPlus } from '../../lib/petl';
import { Tensor } from '../../lib/tensor';

/** Forward, backward and an update through the kinds of calls that there are, on a fresh emulated device; `emulation` says what fails. */
async function train(emulation: string): Promise<number[]> {
  process.env.SIDETUNE_EMULATION = emulation;
  const device = await Device.open('cuda-emulated');
  try {
    const x = Tensor.from(
      device,
      Float32Array.from({ length: 40 }, (_, i) => Math.sin(i)),
      [5, 8],
    );
    const weight = Tensor.from(
      device,
      Float32Array.from({ length: 32 }, (_, i) => Math.cos(i)),
      [4, 8],
    );
    const labels = Tensor.from(device, Int32Array.from([0, 1, 2, 3, 0]), [5]);
    const optimizer = adamW([{ name: 'weight', tensor: weight, decay: true }]);
    const losses: number[] = [];
    for (let step = 0; step < 2; step++) {
      const { value, grads } = valueAndGrad(() => softmaxCrossEntropy(linear(gelu(x), weight), labels).loss, {
        weight,
      });
      optimizer.update(grads);
      losses.push(((await value.read()) as Float32Array)[0]!);
    }
    return losses;
  } finally {
    delete process.env.SIDETUNE_EMULATION;
    await device.close().catch((error) => expect(error).toBeInstanceOf(SidetuneError));
  }
}

async function errorOf(run: () => Promise<unknown>): Promise<SidetuneError | undefined> {
  try {
    await run();
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(SidetuneError);
    return error as SidetuneError;
  }
}

describe('training', () => {
  // Not sticky: the call fails, the device lives. Sticky: so does every later call until the device is closed.
  it.each(['cudaErrorInvalidValue', 'cudaErrorIllegalAddress'])('fails cleanly wherever %s comes', async (fault) => {
    const want = await train('');
    expect(want[1]!).toBeLessThan(want[0]!);
    let call = 1;
    // A failure of what only takes something down again goes unheard: what was asked for is there.
    for (let unheard = 0; unheard < 20 && call < 1000; call++) {
      const error = await errorOf(async () =>
        expect(await train(`fail=any:${call}:${fault}`), `call ${call}`).toEqual(want),
      );
      if (error) expect(error.message, `call ${call}`).toMatch(/cuda|cublas|memory/i);
      expect(error, `call ${call}`).not.toBeInstanceOf(MemoryError); // a device that is lost has no lack of memory
      unheard = error ? 0 : unheard + 1;
    }
    expect(call).toBeGreaterThan(40);
    expect(call).toBeLessThan(1000);
    expect(await train('')).toEqual(want);
  });

  it('that finds no memory names what it was for, and a smaller one works on the same device', async () => {
    process.env.SIDETUNE_EMULATION = 'memory=3000000';
    const device = await Device.open('cuda-emulated');
    delete process.env.SIDETUNE_EMULATION;
    const model = dtlPlus(vit(device, { imageSize: 16, patchSize: 8, dim: 8, depth: 2, heads: 2 }), {
      classes: 2,
      startBlock: 1,
    });
    const optimizer = adamW(model.parameters());
    const large = { images: new Float32Array(900 * 3 * 16 * 16), labels: new Int32Array(900) };
    const error = await errorOf(() => model.step(large, optimizer));
    expect(error).toBeInstanceOf(MemoryError);
    expect(error!.message).toMatch(/out of memory: asked for \d+\.\d MB of \w+, in use \d+\.\d MB/);
    model.dispose();
    const small = Tensor.from(device, [1, 2, 3, 4], [4]);
    expect(((await gelu(small).read()) as Float32Array)[3]).toBeCloseTo(3.99987, 4);
    await device.close();
  });
});

it('a device that has no memory left says how much, and works on', async () => {
  process.env.SIDETUNE_EMULATION = 'fail=cudaMalloc:3:cudaErrorMemoryAllocation';
  const device = await Device.open('cuda-emulated', { guards: true });
  delete process.env.SIDETUNE_EMULATION;
  const made: Tensor[] = [];
  const error = await errorOf(async () => {
    for (let i = 0; i < 5; i++) made.push(Tensor.from(device, [1, 2, 3, 4], [4]));
  });
  expect(error).toBeInstanceOf(MemoryError);
  expect(error!.message).toMatch(/out of memory: asked for .* of \w+, in use .*; the device has \d+ of \d+ MiB free/);
  const more = Tensor.from(device, [1, 2, 3, 4], [4]);
  expect(((await gelu(more).read()) as Float32Array)[3]).toBeCloseTo(3.99987, 4);
  await device.close();
});

it('a lost device says so, and can be opened again', async () => {
  process.env.SIDETUNE_EMULATION = 'fail=cudaLaunchKernelEx:1:cudaErrorIllegalAddress';
  const device = await Device.open('cuda-emulated');
  delete process.env.SIDETUNE_EMULATION;
  const x = Tensor.from(device, [1, 2, 3, 4], [4]);
  const first = await errorOf(() => gelu(x).read());
  expect(first!.message).toMatch(
    /geluForward \(call \d+\) failed: launching: cudaErrorIllegalAddress, .*closed and opened again/,
  );
  expect((await errorOf(() => x.read()))!.message).toMatch(/cudaErrorIllegalAddress/);
  await device.close().catch(() => {});
  await using again = await Device.open('cuda-emulated');
  expect(((await gelu(Tensor.from(again, [1, 2, 3, 4], [4])).read()) as Float32Array)[0]).toBeCloseTo(0.841345, 5);
});

describe('a device that cannot be opened', () => {
  const refusal = async (emulation: string, name = 'cuda-emulated', options = {}): Promise<SidetuneError> => {
    process.env.SIDETUNE_EMULATION = emulation;
    try {
      return (await errorOf(() => Device.open(name, options)))!;
    } finally {
      delete process.env.SIDETUNE_EMULATION;
    }
  };
  it.each([
    ['fail=cudaGetDeviceCount:1:cudaErrorInsufficientDriver', /driver/],
    ['fail=cudaGetDeviceCount:1:cudaErrorInitializationError', /CUDA cannot start: cudaErrorInitializationError/],
    ['fail=cudaGetDeviceCount:1:cudaErrorNoDevice', /no CUDA device 0: this machine has none/],
    ['fail=cudaGetDeviceProperties:1:cudaErrorUnknown', /reading the device's properties: cudaErrorUnknown/],
    ['fail=cudaStreamCreateWithFlags:1:cudaErrorUnknown', /cudaErrorUnknown/],
    ['fail=cudaMalloc:1:cudaErrorMemoryAllocation', /./],
  ])('says why: %s', async (emulation, message) => {
    expect((await refusal(emulation)).message).toMatch(message);
    await using device = await Device.open('cuda-emulated');
    expect(device.info().backend).toBe('cuda');
  });
  it('has an option that is for another', async () => {
    expect(await refusal('', 'cuda-emulated', { threads: 2 })).toMatchObject({
      code: 'SIDETUNE_ARGUMENT',
      argument: 'threads',
    });
  });
});

it('copies on the device, and says what it is', async () => {
  await using device = await Device.open('cuda-emulated');
  const from = Tensor.from(device, [1, 2, 3], [3]);
  const to = Tensor.zeros(device, [3]);
  to.copyFrom(from);
  expect(Array.from((await to.read()) as Float32Array)).toEqual([1, 2, 3]);
  expect(device.info()).toMatchObject({ multiprocessors: 4 });
});
