/** A device's life: options, late errors, memory limits, closing, two at once. */

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type CpuInfo, Device, type DeviceOptions } from '../../lib/device';
import { ArgumentError, DeviceError, MemoryError, type SidetuneError } from '../../lib/errors';
import { kernels } from '../../lib/kernels';
import { addon } from '../../lib/native';
import { layerNorm } from '../../lib/ops';
import { Tensor } from '../../lib/tensor';

const errorOf = async (call: () => unknown): Promise<SidetuneError> => {
  try {
    await call();
  } catch (error) {
    return error as SidetuneError;
  }
  throw new Error('nothing was thrown');
};

const rows = (device: Device, count: number): { x: Tensor; weight: Tensor; bias: Tensor } => ({
  x: Tensor.from(device, new Float32Array(count * 8).fill(2), [count, 8]),
  weight: Tensor.from(device, new Float32Array(8).fill(1), [8]),
  bias: Tensor.from(device, new Float32Array(8).fill(3), [8]),
});

describe('options', () => {
  it.each([
    ['threads', 0],
    ['threads', -1],
    ['threads', 1.5],
    ['threads', Number.NaN],
    ['threads', Number.POSITIVE_INFINITY],
    ['threads', 1_000_000],
    ['threads', '2'],
    ['threads', null],
    ['memoryLimit', 0],
    ['memoryLimit', 0.5],
    ['memoryLimit', Number.NaN],
    ['memoryLimit', 2 ** 60],
  ])('%s: %s', async (option, value) => {
    const error = await errorOf(() => Device.open('cpu', { [option]: value }));
    expect(error).toBeInstanceOf(ArgumentError);
    const got = typeof value === 'string' ? `'${value}'` : String(value);
    expect(error).toMatchObject({ kernel: 'Device.open', argument: option, got });
    expect(error.message).toBe(`Device.open: '${option}' is ${got}, expected ${error.expected}`);
    expect(error.expected).toMatch(/^a whole number (of at least 1$|from 1 to \d+ \(4 for each of the \d+ cores)/);
  });

  it('unknown options, with those that are known', async () => {
    const error = await errorOf(() => Device.open('cpu', { thread: 2 } as DeviceOptions));
    expect(error.message).toBe("Device.open: unknown option 'thread', known: threads, tf32, memoryLimit, plan, guards");
  });

  it.each(['gpu', 'cuda:', 'cuda:x', 'cuda:-1', 'cuda:1.5', 'cuda:0 '])(
    "unknown devices, with those that are known: '%s'",
    async (name) => {
      const error = await errorOf(() => Device.open(name));
      expect(error).toBeInstanceOf(DeviceError);
      expect(error).toMatchObject({ code: 'SIDETUNE_NO_BACKEND' });
      expect(error.message).toBe(`no device '${name}'; devices are 'cpu', 'cuda', 'cuda:0', 'cuda:1', …`);
    },
  );

  it('options of other devices', async () => {
    const error = await errorOf(() => Device.open('cpu', { tf32: true }));
    expect(error).toMatchObject({ code: 'SIDETUNE_ARGUMENT', argument: 'tf32' });
    expect(error.message).toBe("Device.open: 'tf32' is true, expected no such option: it is for CUDA devices");
  });

  it('threads are those asked for', async () => {
    const device = await Device.open('cpu', { threads: 3 });
    expect(device.info()).toMatchObject({ backend: 'cpu', threads: 3 });
    await device.close();
  });

  describe('environment', () => {
    const names = ['SIDETUNE_NUM_THREADS', 'OMP_NUM_THREADS'] as const;
    let before: (string | undefined)[];
    const set = (...values: (string | undefined)[]): void =>
      names.forEach((name, index) => {
        if (values[index] === undefined) delete process.env[name];
        else process.env[name] = values[index];
      });
    beforeEach(() => {
      before = names.map((name) => process.env[name]);
    });
    afterEach(() => set(...before));

    const opened = async (options?: DeviceOptions): Promise<{ threads: number; cores: number }> => {
      await using device = await Device.open('cpu', options);
      return device.info() as CpuInfo;
    };

    it.each(['abc', '0', '-1', '1.5', '2 ', ' 2', '2,1', '0x2', '1000000', '99999999999999999999', 'x'.repeat(1000)])(
      'SIDETUNE_NUM_THREADS=%s is refused',
      async (text) => {
        set(text);
        const error = await errorOf(() => Device.open());
        expect(error).toBeInstanceOf(ArgumentError);
        const got = `'${text.slice(0, 40)}'`;
        expect(error).toMatchObject({ kernel: 'Device.open', argument: 'SIDETUNE_NUM_THREADS', got });
        expect(error.expected).toMatch(
          /^a whole number from 1 to \d+ \(4 for each of the \d+ cores that this process may use\)$/,
        );
        expect(error.message).toBe(`Device.open: 'SIDETUNE_NUM_THREADS' is ${got}, expected ${error.expected}`);
        expect((await opened({ threads: 1 })).threads, 'the option is asked first').toBe(1);
      },
    );

    it('SIDETUNE_NUM_THREADS, then OMP_NUM_THREADS, then the cores', async () => {
      set('3', '1');
      expect((await opened()).threads).toBe(3);
      expect((await opened({ threads: 2 })).threads).toBe(2);
      set('', '1');
      expect((await opened()).threads).toBe(1);
      set();
      const { threads, cores } = await opened();
      expect(threads).toBe(cores);
    });

    it.each([
      ['1', 1],
      ['1,4', 1],
      ['1000000', 'cores'],
      ['99999999999999999999', 'cores'],
      ['0', 'cores'],
      ['-1', 'cores'],
      ['many', 'cores'],
    ] as const)("OMP_NUM_THREADS=%s, which is everybody's, gives %s", async (text, expected) => {
      set(undefined, text);
      const { threads, cores } = await opened();
      expect(threads).toBe(expected === 'cores' ? cores : expected);
    });
  });

  describe('SIDETUNE_SIMD', () => {
    const before = process.env.SIDETUNE_SIMD;
    afterEach(() => {
      if (before === undefined) delete process.env.SIDETUNE_SIMD;
      else process.env.SIDETUNE_SIMD = before;
    });

    it('that this machine has not', async () => {
      process.env.SIDETUNE_SIMD = 'MMX';
      const error = await errorOf(() => Device.open());
      expect(error).toBeInstanceOf(ArgumentError);
      expect(error).toMatchObject({ kernel: 'Device.open', argument: 'SIDETUNE_SIMD', got: "'MMX'" });
      expect(error.message).toMatch(/^Device.open: 'SIDETUNE_SIMD' is 'MMX', expected one of .*scalar/);
    });

    it('chooses, for devices opened then', async () => {
      process.env.SIDETUNE_SIMD = 'scalar';
      const scalar = await Device.open();
      expect((scalar.info() as CpuInfo).simd.toLowerCase()).toBe('scalar');
      delete process.env.SIDETUNE_SIMD;
      const best = await Device.open();
      expect((best.info() as CpuInfo).simd.toLowerCase()).not.toBe('scalar');
      await scalar.close();
      await best.close();
    });
  });
});

describe('late errors', () => {
  it.each([
    ['synchronize', (device: Device) => device.synchronize()],
    ['read', (device: Device) => Tensor.zeros(device, [1]).read()],
    ['checkGuards', (device: Device) => device.checkGuards()],
  ])('reject %s once, naming the call', async (_name, wait) => {
    const device = await Device.open();
    const { x, weight, bias } = rows(device, 4);
    layerNorm(x, weight, bias).dispose();
    addon.deviceFailOnPurpose(device.handle);
    addon.deviceFailOnPurpose(device.handle);
    const skipped = layerNorm(x, weight, bias);
    const error = await errorOf(() => wait(device));
    expect(error).toBeInstanceOf(DeviceError);
    expect(error.code).toBe('SIDETUNE_LATE');
    expect(error.kernel).toBe('failOnPurpose');
    expect(error.message).toMatch(/^failOnPurpose \(call \d+\) failed: asked to fail; later calls were skipped$/);
    await wait(device);
    // Afterwards the device works again.
    const out = layerNorm(x, weight, bias);
    expect(await out.read()).toEqual(new Float32Array(32).fill(3));
    for (const tensor of [x, weight, bias, skipped, out]) tensor.dispose();
    await device.close();
  });

  it('reject close(), which closes all the same', async () => {
    const device = await Device.open();
    addon.deviceFailOnPurpose(device.handle);
    expect((await errorOf(() => device.close())).code).toBe('SIDETUNE_LATE');
    expect(device.closed).toBe(true);
    expect((await errorOf(() => device.synchronize())).code).toBe('SIDETUNE_DEVICE');
  });
});

describe('memory limit', () => {
  it('says what was asked for, what is in use by kind, and the limit', async () => {
    const device = await Device.open('cpu', { memoryLimit: 2_000_000 });
    const weights = Tensor.zeros(device, [250_000], { kind: 'weights' });
    const data = Tensor.zeros(device, [125_000], { kind: 'data' });
    const error = await errorOf(() => Tensor.empty(device, [150_000], { kind: 'side' }));
    expect(error).toBeInstanceOf(MemoryError);
    expect(error).toMatchObject({ code: 'SIDETUNE_MEMORY', argument: 'side', got: '0.6 MB' });
    expect(error.message).toBe(
      'out of memory: asked for 0.6 MB of side, in use 1.5 MB (weights 1.0 MB, data 0.5 MB), limit 2.0 MB',
    );
    expect(device.memory()).toMatchObject({ currentBytes: 1_500_000, limitBytes: 2_000_000, blocks: 2 });
    weights.dispose();
    Tensor.empty(device, [150_000], { kind: 'side' }).dispose();
    data.dispose();
    expect(device.memory()).toMatchObject({ currentBytes: 0, peakBytes: 1_500_000 });
    await device.close();
  });

  it('leaves nothing of a call behind whose second output does not fit', async () => {
    // x, weight, bias and `out` fit; the statistics that come after them do not.
    const device = await Device.open('cpu', { memoryLimit: 2 * 3200 + 64 + 300, guards: true });
    const { x, weight, bias } = rows(device, 100);
    const before = device.memory();
    const error = await errorOf(() => kernels.layerNormForward({ x, weight, bias }, { save: true }));
    expect(error).toBeInstanceOf(MemoryError);
    expect(device.memory()).toMatchObject({ currentBytes: before.currentBytes, blocks: before.blocks });
    const { out } = kernels.layerNormForward({ x, weight, bias });
    expect(await out.read()).toEqual(new Float32Array(800).fill(3));
    for (const tensor of [x, weight, bias, out]) tensor.dispose();
    expect(device.memory().currentBytes).toBe(0);
    expect(await device.checkGuards()).toBeNull();
    await device.close();
  });
});

describe('close', () => {
  it('twice is no error, and both wait', async () => {
    const device = await Device.open();
    const { x, weight, bias } = rows(device, 1000);
    for (let call = 0; call < 100; call++) layerNorm(x, weight, bias).dispose();
    const last = layerNorm(x, weight, bias).read();
    let settled = false;
    last.then(() => {
      settled = true;
    });
    const first = device.close();
    await device.close();
    expect(settled).toBe(true);
    await first;
    expect(device.closed).toBe(true);
  });

  it('leaves tensors that can be disposed and nothing else', async () => {
    const device = await Device.open('cpu', { guards: true });
    const { x, weight, bias } = rows(device, 4);
    const handles = [x.alias(), x.reshape([32])];
    await device.close();
    const uses: [string, () => unknown][] = [
      ['op', () => layerNorm(x, weight, bias)],
      [
        'measure',
        () => addon.kernels.layerNormForward!.measure({ x: x.handle, weight: weight.handle, bias: bias.handle }),
      ],
      ['read', () => x.read()],
      ['write', () => x.write(new Float32Array(32))],
      ['copyFrom', () => weight.copyFrom(bias)],
      ['empty', () => Tensor.empty(device, [1])],
      ['synchronize', () => device.synchronize()],
      ['checkGuards', () => device.checkGuards()],
      ['failOnPurpose', () => addon.deviceFailOnPurpose(device.handle)],
    ];
    for (const [name, use] of uses) {
      const error = await errorOf(use);
      expect(error, name).toBeInstanceOf(DeviceError);
      expect(error.code, name).toBe('SIDETUNE_DEVICE');
      expect(error.message, name).toMatch(/closed/);
    }
    expect(x.shape).toEqual([4, 8]);
    for (const tensor of [...handles, x, weight, bias]) tensor.dispose();
    expect(device.memory().currentBytes).toBe(0);
  });

  it('rejects promises that the stream did not get to', async () => {
    const device = await Device.open('cpu', { threads: 1 });
    const { x, weight, bias } = rows(device, 100_000);
    for (let call = 0; call < 200; call++) layerNorm(x, weight, bias).dispose();
    const promises = [x.read(), device.synchronize(), device.checkGuards(), weight.readBytes()];
    addon.deviceClose(device.handle); // at once, unlike close()
    const results = await Promise.allSettled(promises);
    for (const result of results) {
      expect(result).toMatchObject({ status: 'rejected', reason: expect.any(DeviceError) });
      expect((result as PromiseRejectedResult).reason.message).toBe('the device was closed before the stream got here');
    }
    for (const tensor of [x, weight, bias]) tensor.dispose();
  });

  it('comes at the end of a block with await using', async () => {
    let outside: Device;
    {
      await using device = await Device.open();
      outside = device;
    }
    expect(outside.closed).toBe(true);
  });
});

describe('two devices', () => {
  it('do not mix in one call', async () => {
    const [one, two] = await Promise.all([Device.open(), Device.open('cpu', { plan: true })]);
    const { x, weight } = rows(one, 4);
    const { bias } = rows(two, 4);
    const error = await errorOf(() => layerNorm(x, weight, bias));
    expect(error).toBeInstanceOf(DeviceError);
    expect(error).toMatchObject({ code: 'SIDETUNE_DEVICE', kernel: 'layerNormForward', argument: 'bias' });
    expect(error.message).toMatch(/'bias' is on another device/);
    expect((await errorOf(() => weight.copyFrom(bias))).code).toBe('SIDETUNE_DEVICE');
    await Promise.all([one.close(), two.close()]);
  });

  it('have memory and streams of their own', async () => {
    const [one, two] = await Promise.all([Device.open(), Device.open()]);
    const a = Tensor.from(one, [1], [1]);
    expect([one.memory().blocks, two.memory().blocks]).toEqual([1, 0]);
    addon.deviceFailOnPurpose(one.handle);
    await two.synchronize();
    await expect(one.synchronize()).rejects.toThrow('asked to fail');
    expect(await a.read()).toEqual(new Float32Array([1]));
    await Promise.all([one.close(), two.close()]);
  });
});

describe('devices that compute at the same time', () => {
  const values = new Float32Array(4096 * 512).map((_, index) => (index * 7919) % 2001);
  const prepare = async (threads: number) => {
    const device = await Device.open('cpu', { threads });
    const first = Tensor.from(device, values, [4096, 512]);
    const weight = Tensor.from(device, new Float32Array(512).fill(1.5), [512]);
    const bias = Tensor.from(device, new Float32Array(512).fill(0.25), [512]);
    // Norms of norms.
    const work = async (): Promise<Buffer> => {
      let x = layerNorm(first, weight, bias);
      for (let call = 0; call < 30; call++) {
        const next = layerNorm(x, weight, bias);
        x.dispose();
        x = next;
      }
      const bytes = x.readBytes();
      x.dispose();
      return Buffer.from(await bytes);
    };
    return { device, work };
  };

  it.each([[[1, 1]], [[2, 2]], [[4, 1]], [[1, 2, 3, 4]]])(
    '%j threads: the same bits as alone, and all get on',
    async (threads) => {
      const devices = await Promise.all(threads.map(prepare));
      const alone = await devices[0]!.work();
      // Each keeps its cores busy until all have done three rounds: one that starved would never let this end.
      const rounds = threads.map(() => 0);
      const run = async ({ work }: { work(): Promise<Buffer> }, index: number): Promise<void> => {
        while (Math.min(...rounds) < 3) {
          expect((await work()).equals(alone)).toBe(true);
          rounds[index]!++;
        }
      };
      await Promise.all(devices.map(run));
      await Promise.all(devices.map(({ device }) => device.close()));
    },
  );

  it('one that is closed in the middle leaves the other alone', async () => {
    const [one, two] = await Promise.all([prepare(2), prepare(2)]);
    const alone = await two.work();
    const dropped = one.work().catch((error) => error);
    const goesOn = two.work();
    addon.deviceClose(one.device.handle); // at once, unlike close()
    expect(await dropped).toBeInstanceOf(DeviceError);
    expect((await goesOn).equals(alone)).toBe(true);
    await two.device.close();
  });
});

describe('a planning device', () => {
  it('counts what a real one would, and computes nothing', async () => {
    const run = async (options: DeviceOptions): Promise<{ device: Device; out: Tensor; peakBytes: number }> => {
      const device = await Device.open('cpu', options);
      const { x, weight, bias } = rows(device, 64);
      const { out } = kernels.layerNormForward({ x, weight, bias }, { save: true });
      return { device, out, peakBytes: device.memory().peakBytes };
    };
    const [real, plan] = [await run({}), await run({ plan: true })];
    expect(plan.peakBytes).toBe(real.peakBytes);
    const error = await errorOf(() => plan.out.read());
    expect(error).toBeInstanceOf(DeviceError);
    expect(error.message).toBe('a planning device computes nothing: its tensors cannot be read');
    addon.deviceFailOnPurpose(plan.device.handle);
    await plan.device.synchronize();
    await Promise.all([real.device.close(), plan.device.close()]);
  });

  it('plans more than the machine has', async () => {
    const device = await Device.open('cpu', { plan: true });
    const huge = Tensor.empty(device, [2 ** 40]);
    expect(device.memory().currentBytes).toBe(2 ** 42);
    huge.dispose();
    await device.close();
  });
});

describe('methods borrowed onto what is no device', () => {
  const methods = [
    'synchronize',
    'memory',
    'resetPeak',
    'info',
    'close',
    'checkGuards',
    'startTrace',
    'stopTrace',
  ] as const;
  it.each(methods)('%s', async (method) => {
    for (const target of [{}, { handle: {} }, Object.create(Device.prototype), []]) {
      const error = await errorOf(() => (Device.prototype[method] as () => unknown).call(target));
      expect(error instanceof TypeError || error instanceof ArgumentError).toBe(true);
    }
  });
});

it('guards are whole after a call', async () => {
  const device = await Device.open('cpu', { guards: true });
  const { x, weight, bias } = rows(device, 3);
  layerNorm(x, weight, bias).dispose();
  expect(await device.checkGuards()).toBeNull(); // that they find an overrun is shown in test/native/device_test.cc
  for (const tensor of [x, weight, bias]) tensor.dispose();
  await device.close();
});
