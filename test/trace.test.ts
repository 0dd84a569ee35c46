/** Traces: what Perfetto needs, that the figures are the kernels' own, what happens around errors and ends. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  autograd,
  Device,
  DeviceError,
  FileError,
  joinTraces,
  models,
  ops,
  optim,
  petl,
  scope,
  Tensor,
  type Trace,
  type TraceEvent,
  traced,
  traceSummary,
  writeTrace,
} from '../lib';
import { measure } from '../lib/kernels';
import { addon } from '../lib/native';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sidetune-trace-'));
afterAll(() => rmSync(folder, { recursive: true }));

const trackOf = ({ traceEvents }: Trace, name: string): TraceEvent[] => {
  const { tid } = traceEvents.find((event) => event.name === 'thread_name' && event.args!.name === name)!;
  return traceEvents.filter((event) => event.ph === 'X' && event.tid === tid);
};
const namesOn = (trace: Trace, track: string): string[] => trackOf(trace, track).map(({ name }) => name);
const endOf = ({ ts, dur }: TraceEvent): number => ts + dur!;
const slack = 1e-6; // of sums of microseconds that are exact to three places

const rows = (device: Device, count: number): { x: Tensor; weight: Tensor; bias: Tensor } => ({
  x: Tensor.from(device, new Float32Array(count * 8).fill(2), [count, 8]),
  weight: Tensor.from(device, new Float32Array(8).fill(1), [8]),
  bias: Tensor.from(device, new Float32Array(8).fill(3), [8]),
});

/** Some calls of every sort. */
async function someCalls(device: Device): Promise<void> {
  await scope(async () => {
    const { x, weight, bias } = rows(device, 64);
    const y = ops.gelu(ops.layerNorm(x, weight, bias));
    x.copyFrom(y);
    await x.read();
  });
}
const someKernels = ['write', 'write', 'write', 'layerNormForward', 'geluForward', 'copy', 'read'];

function tinyVit(device: Device): models.Vit {
  return models.vit(device, { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 });
}
const batch = { images: new Float32Array(2 * 3 * 16 * 16).fill(0.5), labels: new Int32Array([0, 1]) };

async function traceOf(body: (device: Device) => unknown): Promise<Trace> {
  await using device = await Device.open();
  let trace: Trace | undefined;
  await traced(
    device,
    '',
    () => body(device),
    (result) => {
      trace = result;
    },
  );
  return trace!;
}

describe('the format', () => {
  it('has the fields that Perfetto needs, in order of time', async () => {
    const trace = await traceOf(someCalls);
    expect(Object.keys(trace).sort()).toEqual(['displayTimeUnit', 'otherData', 'traceEvents']);
    expect(trace.displayTimeUnit).toBe('ms');
    expect(trace.otherData).toMatchObject({ device: 'cpu', threads: expect.any(Number), droppedCalls: 0 });
    const number = expect.any(Number);
    let last = 0;
    for (const event of trace.traceEvents) {
      expect(event).toMatchObject({ name: expect.any(String), ts: number, pid: 1, tid: number });
      expect(event.ts).toBeGreaterThanOrEqual(last);
      last = event.ts;
      if (event.ph === 'X') expect(event.dur).toBeGreaterThanOrEqual(0);
      else expect(event.dur).toBeUndefined();
      expect(event.ph).toMatch(/^[XCsfM]$/);
    }
    const tracks = trace.traceEvents.filter(({ name }) => name === 'thread_name').map(({ args }) => args!.name);
    expect(tracks).toEqual(['JavaScript', 'kernels', 'model']);
  });

  it('has every call once on each track, none before it was made, one after the other', async () => {
    const trace = await traceOf(someCalls);
    const [calls, kernels] = [trackOf(trace, 'JavaScript'), trackOf(trace, 'kernels')];
    expect(namesOn(trace, 'JavaScript')).toEqual(someKernels);
    expect(namesOn(trace, 'kernels')).toEqual(someKernels);
    for (const track of [calls, kernels]) {
      for (const [index, event] of track.slice(1).entries())
        expect(event.ts).toBeGreaterThan(endOf(track[index]!) - slack);
    }
    for (const [index, { ts, args }] of kernels.entries()) {
      expect(ts).toBeGreaterThanOrEqual(calls[index]!.ts);
      expect(args!.call).toBe(calls[index]!.args!.call);
    }
    expect(kernels.map(({ args }) => args!.call)).toEqual([1, 2, 3, 4, 5, 6, undefined]);
  });

  it('has an arrow from each call to its kernel', async () => {
    const trace = await traceOf(someCalls);
    const ends = (ph: string): TraceEvent[] => trace.traceEvents.filter((event) => event.ph === ph);
    const times = (events: TraceEvent[]): number[] => events.map(({ ts }) => ts);
    expect(times(ends('s'))).toEqual(times(trackOf(trace, 'JavaScript')));
    expect(times(ends('f'))).toEqual(times(trackOf(trace, 'kernels')));
    const ids = ends('s').map(({ id }) => id);
    expect(new Set(ids).size).toBe(someKernels.length);
    expect(ends('f').map(({ id }) => id)).toEqual(ids);
    for (const { cat, name } of [...ends('s'), ...ends('f')]) expect([cat, name]).toEqual(['call', 'call']);
  });

  it('counts the calls that are queued: from 0 to 0, and one at least while a kernel runs', async () => {
    const trace = await traceOf(someCalls);
    const counts = trace.traceEvents.filter(({ ph }) => ph === 'C');
    const values = counts.map(({ args }) => args!.calls as number);
    expect([values[0], values.at(-1)]).toEqual([0, 0]);
    expect(Math.min(...values)).toBe(0);
    for (const kernel of trackOf(trace, 'kernels')) {
      const during = counts.filter(({ ts }) => ts <= (kernel.ts + endOf(kernel)) / 2).at(-1)!;
      expect(during.args!.calls).toBeGreaterThan(0);
    }
  });

  it('says of each kernel what it was given, and the bytes and FLOPs that measure() counts', async () => {
    let expected: { bytes: number; flops: number } | undefined;
    const trace = await traceOf((device) =>
      scope(() => {
        const args = rows(device, 64);
        expected = measure('layerNormForward', args);
        ops.layerNorm(args.x, args.weight, args.bias, { eps: 1e-6 });
      }),
    );
    const { args, dur } = trackOf(trace, 'kernels').find(({ name }) => name === 'layerNormForward')!;
    expect(args).toMatchObject(expected!);
    expect(args!.tensors).toBe('x f32[64,8], weight f32[8], bias f32[8], out f32[64,8], eps 1e-06');
    expect(args!['GFLOP/s']).toBeCloseTo(expected!.flops / dur! / 1000, 2);
    expect(args!['GB/s']).toBeCloseTo(expected!.bytes / dur! / 1000, 2);
    const write = trackOf(trace, 'kernels')[0]!;
    expect(write.args).toMatchObject({ bytes: 2 * 64 * 8 * 4, flops: 0 });
  });
});

describe('recording', () => {
  it('is off by default, and off again afterwards', async () => {
    await using device = await Device.open();
    await someCalls(device);
    device.startTrace();
    await someCalls(device);
    expect(namesOn(await device.stopTrace(), 'kernels')).toEqual(someKernels);
    await someCalls(device);
    device.startTrace();
    expect(trackOf(await device.stopTrace(), 'JavaScript')).toEqual([]);
  });

  it('takes nothing from the device', async () => {
    await using device = await Device.open();
    await someCalls(device);
    const before = device.memory();
    device.startTrace();
    await someCalls(device);
    await device.stopTrace();
    expect(device.memory()).toEqual(before);
  });

  it('ends at maxCalls, and counts what it drops', async () => {
    await using device = await Device.open();
    device.startTrace({ maxCalls: 3 });
    await someCalls(device);
    const trace = await device.stopTrace();
    expect(namesOn(trace, 'kernels')).toEqual(someKernels.slice(0, 3));
    expect(trace.otherData.droppedCalls).toBe(someKernels.length - 3);
  });

  it('of devices side by side is apart', async () => {
    await using one = await Device.open();
    await using two = await Device.open();
    one.startTrace();
    await Promise.all([someCalls(one), someCalls(two)]);
    expect(namesOn(await one.stopTrace(), 'kernels')).toEqual(someKernels);
    await expect(two.stopTrace()).rejects.toThrow('no trace is being recorded');
  });

  it.each([
    [
      'a second one',
      (device: Device) => device.startTrace(),
      /a trace is being recorded already; stopTrace\(\) ends it/,
    ],
    ['maxCalls 0', (device: Device) => device.startTrace({ maxCalls: 0 }), /'maxCalls' is 0, expected a whole number/],
    ['maxCalls 1.5', (device: Device) => device.startTrace({ maxCalls: 1.5 }), /'maxCalls' is 1.5, expected a whole/],
    [
      'a label that is none',
      (device: Device) => device.startTrace({ label: 1 as never }),
      /'label' is 1, expected a text/,
    ],
    [
      'unknown options',
      (device: Device) => device.startTrace({ max: 1 } as never),
      /'max' is unknown, expected label or/,
    ],
  ])('refuses %s', async (_, call, said) => {
    await using device = await Device.open();
    device.startTrace();
    expect(() => call(device)).toThrow(said);
    await device.stopTrace();
  });

  it('refuses a planning device and a closed one', async () => {
    await using plan = await Device.open('cpu', { plan: true });
    expect(() => plan.startTrace()).toThrow('a planning device computes nothing: there is nothing to trace');
    const device = await Device.open();
    await device.close();
    expect(() => device.startTrace()).toThrow(DeviceError);
  });
});

describe('errors and ends', () => {
  it('a late error is told first; then the trace shows who failed and who was skipped', async () => {
    await using device = await Device.open();
    const { x, weight, bias } = rows(device, 4);
    device.startTrace();
    addon.deviceFailOnPurpose(device.handle);
    ops.layerNorm(x, weight, bias).dispose();
    await expect(device.stopTrace()).rejects.toThrow('failOnPurpose (call 4) failed: asked to fail');
    ops.gelu(x).dispose();
    const trace = await device.stopTrace();
    expect(namesOn(trace, 'kernels')).toEqual(['failOnPurpose', 'geluForward']);
    expect(trackOf(trace, 'JavaScript').map(({ name, args }) => [name, args!.ran])).toEqual([
      ['failOnPurpose', undefined],
      ['layerNormForward', false],
      ['geluForward', undefined],
    ]);
    expect(traceSummary(trace).between.ms).toBeGreaterThanOrEqual(-slack);
    for (const tensor of [x, weight, bias]) tensor.dispose();
  });

  it('a device that is closed meanwhile gives what ran', async () => {
    const device = await Device.open();
    device.startTrace();
    await someCalls(device);
    void device.close();
    expect(namesOn(await device.stopTrace(), 'kernels')).toEqual(someKernels);
    await expect(device.stopTrace()).rejects.toThrow(DeviceError);
  });

  it('a device that is closed at once gives what ran until then', async () => {
    const device = await Device.open('cpu', { threads: 1 });
    const { x, weight, bias } = rows(device, 100_000);
    await device.synchronize();
    device.startTrace();
    for (let call = 0; call < 200; call++) ops.layerNorm(x, weight, bias).dispose();
    addon.deviceClose(device.handle);
    await expect(device.close()).rejects.toThrow('closed');
    const trace = await device.stopTrace();
    expect(trackOf(trace, 'JavaScript')).toHaveLength(200);
    expect(trackOf(trace, 'kernels').length).toBeLessThan(200);
    for (const tensor of [x, weight, bias]) tensor.dispose();
  });

  it('traced() ends the trace of a body that fails, at once or late', async () => {
    await using device = await Device.open();
    const never = (): never => expect.unreachable();
    const fails = (body: () => unknown): Promise<unknown> => traced(device, 'fails', body, never);
    await expect(fails(() => Promise.reject(new Error('at once')))).rejects.toThrow('at once');
    await expect(fails(() => addon.deviceFailOnPurpose(device.handle))).rejects.toThrow('asked to fail');
    await expect(device.stopTrace()).rejects.toThrow('no trace is being recorded');
    await device.synchronize();
  });
});

describe('parts of the model', () => {
  const partsOf = (trace: Trace): string[] => traceSummary(trace).parts.map(({ name }) => name);

  it('are those of forward and backward', async () => {
    await using device = await Device.open();
    using backbone = tinyVit(device);
    using model = petl.full(backbone, { classes: 2 });
    using optimizer = optim.adamW(model.parameters());
    let trace: Trace | undefined;
    const keep = (result: Trace): void => {
      trace = result;
    };
    const result = await traced(device, 'full', () => model.step(batch, optimizer), keep);
    expect(result.images).toBe(2);
    const forward = ['embed', 'block 1', 'block 2', 'block 3', 'head'];
    expect(partsOf(trace!)).toEqual(expect.arrayContaining([...forward.map((part) => `forward / ${part}`), 'update']));
    // What is differentiated last comes first: in each, a backward kernel.
    const backward = partsOf(trace!).filter((part) => part.startsWith('backward / '));
    expect(backward).toEqual([...forward].reverse().map((part) => `backward / ${part}`));
    for (const { name, args } of trackOf(trace!, 'kernels')) {
      if (name.endsWith('Backward') && !name.startsWith('softmax')) expect(args!.part).toMatch(/^backward \/ /);
      if (name === 'attentionForward') expect(args!.part).toMatch(/^forward \/ block \d$/);
      if (name === 'adamwUpdate') expect(args!.part).toBe('update');
    }

    // Slices lie one in the other: everything in 'full', blocks in 'forward'.
    const [outer, ...inner] = trackOf(trace!, 'model');
    expect(outer!.name).toBe('full');
    for (const event of inner) expect(endOf(event)).toBeLessThanOrEqual(endOf(outer!) + slack);
    const [pass] = inner.filter(({ name }) => name === 'forward');
    const blocks = inner.filter(({ name, ts }) => name !== 'forward' && ts >= pass!.ts && ts < endOf(pass!));
    expect(blocks.map(({ name }) => name)).toEqual(forward);
  });

  it('without a tape are those of a pass', async () => {
    const trace = await traceOf((device) => {
      using backbone = tinyVit(device);
      using model = petl.dtl(backbone, { classes: 2, startBlock: 1 });
      model.forward(batch.images).dispose();
    });
    expect(partsOf(trace).filter(Boolean)).toEqual(['embed', 'block 1', 'block 2', 'block 3', 'head']);
  });

  it('tell what a checkpoint computes again', async () => {
    const trace = await traceOf((device) => {
      using backbone = tinyVit(device);
      using model = petl.dtl(backbone, { classes: 2, startBlock: 1, retain: 'block-inputs' });
      const { loss, correct, grads } = model.gradients(batch);
      for (const tensor of [loss, correct, ...Object.values(grads)]) tensor.dispose();
    });
    expect(partsOf(trace)).toContain('backward / block 3 / recompute');
    expect(partsOf(trace)).not.toContain('backward / block 1 / recompute'); // nothing flows back through it
  });

  it("are anybody's own, one in the other", async () => {
    const trace = await traceOf((device) => {
      const x = Tensor.zeros(device, [8]);
      autograd.block('outer', () => {
        ops.gelu(x).dispose();
        expect(() =>
          autograd.block('inner', () => {
            ops.gelu(x).dispose();
            throw new Error('left all the same');
          }),
        ).toThrow();
        ops.gelu(x).dispose();
      });
      ops.gelu(x).dispose();
      x.dispose();
    });
    const parts = trackOf(trace, 'kernels').map(({ args }) => args!.part);
    expect(parts).toEqual([undefined, 'outer', 'outer / inner', 'outer', undefined]);
    expect(namesOn(trace, 'model')).toEqual(['outer', 'inner']);
  });
});

describe('the summary', () => {
  it('adds up to the time that passed', async () => {
    await using device = await Device.open();
    const start = performance.now();
    device.startTrace();
    await someCalls(device);
    await new Promise((done) => setTimeout(done, 20));
    await someCalls(device);
    const trace = await device.stopTrace();
    const passed = performance.now() - start;
    const { wallMs, kernels, parts, waiting, between } = traceSummary(trace);
    expect(wallMs).toBeLessThanOrEqual(passed);
    expect(waiting.ms).toBeGreaterThan(15);
    expect(between.ms).toBeGreaterThanOrEqual(-slack);
    const sum = (figures: { ms: number; share: number }[]) => [
      figures.reduce((total, { ms }) => total + ms, 0),
      figures.reduce((total, { share }) => total + share, 0),
    ];
    for (const figures of [kernels, parts]) {
      const [ms, share] = sum([...figures, waiting, between]);
      expect(ms).toBeCloseTo(wallMs, 6);
      expect(share).toBeCloseTo(1, 6);
    }
    expect(Object.fromEntries(kernels.map(({ name, calls }) => [name, calls]))).toEqual({
      ...{ write: 6, layerNormForward: 2, geluForward: 2, copy: 2, read: 2 },
    });
    expect(kernels.map(({ ms }) => ms)).toEqual(kernels.map(({ ms }) => ms).sort((a, b) => b - a));
  });

  it('of known times is known', () => {
    const { traceEvents, ...rest } = {
      ...{ traceEvents: [] as TraceEvent[], displayTimeUnit: 'ms' as const, otherData: { droppedCalls: 0 } },
    };
    const at = (ts: number, event: Partial<TraceEvent>): number =>
      traceEvents.push({ name: 'scale', ph: 'X', pid: 1, tid: 2, ts, ...event });
    const count = (ts: number, calls: number): number => at(ts, { name: 'queued calls', ph: 'C', args: { calls } });
    count(0, 0); // waits for 100
    count(100, 1);
    at(110, { dur: 90, args: { part: 'a', bytes: 9000, flops: 90_000 } }); // begins 10 late
    count(200, 0); // waits for 300
    count(500, 1);
    at(500, { dur: 500, args: { bytes: 1000, flops: 0 } });
    count(1000, 0);
    expect(traceSummary({ traceEvents, ...rest })).toEqual({
      wallMs: 1,
      kernels: [{ name: 'scale', calls: 2, ms: 0.59, share: 0.59, gflops: 90_000 / 590e3, gbps: 10_000 / 590e3 }],
      parts: [
        { name: 'a', calls: 1, ms: 0.09, share: 0.09, gflops: 1, gbps: 0.1 },
        { name: '', calls: 1, ms: 0.5, share: 0.5, gflops: 0, gbps: 0.002 },
      ],
      waiting: { ms: 0.4, share: 0.4 },
      between: { ms: 0.01, share: 0.01 },
    });
  });

  it('of nothing is nothing', async () => {
    const { wallMs, kernels, waiting } = traceSummary(await traceOf(() => {}));
    expect([wallMs, kernels, waiting]).toEqual([0, [], { ms: 0, share: 0 }]);
  });
});

describe('joined traces', () => {
  it('come one after the other, with arrows of their own', async () => {
    const [one, two] = await Promise.all([traceOf(someCalls), traceOf(someCalls)]);
    one.otherData.droppedCalls = 1;
    two.otherData.droppedCalls = 2;
    const joined = joinTraces([one, two]);
    expect(namesOn(joined, 'kernels')).toEqual([...someKernels, ...someKernels]);
    expect(joined.otherData).toMatchObject({ device: 'cpu', droppedCalls: 3 });
    const times = joined.traceEvents.map(({ ts }) => ts);
    expect(times).toEqual([...times].sort((a, b) => a - b));
    const kernels = trackOf(joined, 'kernels');
    const [last, first] = [kernels[someKernels.length - 1]!, trackOf(joined, 'JavaScript')[someKernels.length]!];
    expect(first.ts - endOf(last)).toBeGreaterThan(900);
    const ids = joined.traceEvents.filter(({ ph }) => ph === 's').map(({ id }) => id);
    expect(new Set(ids).size).toBe(2 * someKernels.length);
    expect(joined.traceEvents.filter(({ ph }) => ph === 'M')).toHaveLength(7);
  });

  it('are nothing when there are none', () => {
    expect(joinTraces([])).toMatchObject({ otherData: { droppedCalls: 0 } });
  });
});

describe('a file', () => {
  it('holds what the trace holds', async () => {
    await using device = await Device.open();
    device.startTrace({ label: 'many' });
    const x = Tensor.zeros(device, [8]);
    for (let call = 0; call < 500; call++) ops.gelu(x).dispose(); // more events than are written at once
    x.dispose();
    const trace = await device.stopTrace();
    const file = path.join(folder, 'trace.json');
    await writeTrace(trace, file);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(trace);
    expect(trace.otherData.label).toBe('many');
  });

  it('that cannot be written is named', async () => {
    const trace = await traceOf(() => {});
    const call = writeTrace(trace, path.join(folder, 'nowhere', 'trace.json'));
    await expect(call).rejects.toThrow(FileError);
    await expect(call).rejects.toThrow(/nowhere.*could not be written: no such folder/);
  });
});
