import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { affineAugment, batches, imageFolder, type LoadedDataset, loadDataset } from '../../lib/data';
import type { Device } from '../../lib/device';
import { SidetuneError } from '../../lib/errors';
import { init, vit } from '../../lib/models';
import { adamW } from '../../lib/optim';
import type { PetlModel } from '../../lib/petl';
import * as petl from '../../lib/petl';
import { Tensor } from '../../lib/tensor';
import { predict, train } from '../../lib/train';
import { openDevice } from '../each_target';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sidetune-'));
const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 };
let images: LoadedDataset;

beforeAll(async () => {
  // Two classes that a linear probe can tell apart: reddish and bluish squares.
  for (const [name, colour] of [
    ['blue', [40, 60, 200]],
    ['red', [200, 60, 40]],
  ] as const) {
    for (let i = 0; i < 10; i++) {
      const file = path.join(folder, 'images', name, `${i}.png`);
      const pixels = Buffer.from(
        Array.from({ length: 16 * 16 * 3 }, (_, k) => (colour[k % 3]! + i * 3 + ((k * 7) % 30)) & 255),
      );
      await (await import('node:fs/promises')).mkdir(path.dirname(file), { recursive: true });
      await sharp(pixels, { raw: { width: 16, height: 16, channels: 3 } })
        .png()
        .toFile(file);
    }
  }
  images = (await loadDataset(imageFolder(path.join(folder, 'images'), { size: 16 }))) as LoadedDataset;
});
afterAll(() => rmSync(folder, { recursive: true }));

const settings = { epochs: 4, batchSize: 8, lr: 1e-2, seed: 5 };

function makeModel(device: Device, options: Partial<petl.ModelOptions> = {}): PetlModel {
  return petl.dtlPlus(vit(device, tiny, { seed: 3 }), {
    classes: 2,
    startBlock: 2,
    dropPath: 0.2,
    labels: ['blue', 'red'],
    ...options,
  });
}

async function numbersOf(model: PetlModel): Promise<Record<string, Uint8Array>> {
  const entries = await Promise.all(
    model.parameters().map(async ({ name, tensor }) => [name, await tensor.readBytes()] as const),
  );
  return Object.fromEntries(entries);
}

async function errorOf(promise: Promise<unknown>): Promise<SidetuneError> {
  const error = await promise.then(
    () => undefined,
    (caught) => caught,
  );
  expect(error).toBeInstanceOf(SidetuneError);
  return error as SidetuneError;
}

describe('train', () => {
  it('learns, and reports what it does', async () => {
    const device = await openDevice();
    const model = makeModel(device, { dropPath: 0 });
    const seen: number[] = [];
    const summary = await train(model, {
      train: images,
      test: images,
      ...settings,
      epochs: 12,
      onProgress: ({ epoch }) => seen.push(epoch),
    });
    expect(summary.test!.accuracy).toBeGreaterThan(0.9);
    expect(summary.epochs).toBe(12);
    expect(new Set(seen).size).toBe(12);
    await device.close();
  });

  it('gives its images to a method whose initial values depend on them', async () => {
    const device = await openDevice();
    const backbone = vit(device, tiny, { seed: 3 });
    const lst = (): PetlModel => petl.lst(backbone, { classes: 2, reduction: 4, samples: 6 });
    const checkpoint = path.join(folder, 'lst.safetensors');
    // Stopped before the first step it has not begun: nothing to go on from.
    const controller = new AbortController();
    const signal = controller.signal;
    const stopped = lst();
    controller.abort();
    const { stopped: early, epochs } = await train(stopped, { train: images, ...settings, checkpoint, signal });
    expect([early, epochs, stopped.initialized]).toEqual([true, 0, false]);
    expect(existsSync(checkpoint)).toBe(false);

    // Its first six images in the order of the run.
    const [trained, expected] = [lst(), lst()];
    let start: ReturnType<typeof numbersOf> | undefined;
    const beforeStep = (): void => {
      start ??= numbersOf(trained);
    };
    const seen: string[] = [];
    const onInitialize = (done: number, of: number): void => void seen.push(`${done}/${of}`);
    await train(trained, { train: images, ...settings, beforeStep, onInitialize });
    expect(seen).toEqual(['1/6', '2/6', '3/6', '4/6', '5/6', '6/6']);
    const { seed } = settings;
    const samples = batches(images, { batchSize: 1, shuffle: { seed, epoch: 0 } });
    await expected.initialize({ samples });
    expect(await start).toEqual(await numbersOf(expected));
    expect(await start).not.toEqual(await numbersOf(stopped));

    // Stopped after a step, gone on with and stopped again, it is the same run.
    for (const steps of [1, 2, 100]) {
      const model = lst();
      const stop = new AbortController();
      let left = steps;
      const onProgress = (): void => void (--left === 0 && stop.abort());
      await train(model, { train: images, ...settings, checkpoint, resume: true, signal: stop.signal, onProgress });
      if (steps === 100) expect(await numbersOf(model)).toEqual(await numbersOf(trained));
    }
    await device.close();
  });

  it('resumed in the middle of an epoch, it continues bit for bit', async () => {
    const device = await openDevice();
    const augment = affineAugment();
    const straight = makeModel(device);
    await train(straight, { train: images, ...settings, augment });

    const checkpoint = path.join(folder, 'run.safetensors');
    const first = makeModel(device);
    const stop = new AbortController();
    const partial = await train(first, {
      train: images,
      ...settings,
      augment,
      checkpoint,
      signal: stop.signal,
      onProgress: ({ epoch, step }) => {
        if (epoch === 2 && step === 1) stop.abort();
      },
    });
    expect(partial.stopped).toBe(true);
    const second = makeModel(device);
    const rest = await train(second, { train: images, ...settings, augment, checkpoint, resume: true });
    expect(rest.stopped).toBe(false);
    expect(await numbersOf(second)).toEqual(await numbersOf(straight));
    await device.close();
  });

  it('refuses the checkpoint of another run and names what differs', async () => {
    const device = await openDevice();
    const checkpoint = path.join(folder, 'other.safetensors');
    await train(makeModel(device), { train: images, ...settings, epochs: 1, checkpoint });
    const error = await errorOf(
      train(makeModel(device), { train: images, ...settings, epochs: 1, lr: 0.5, checkpoint, resume: true }),
    );
    expect(error.code).toBe('SIDETUNE_FORMAT');
    expect(error.message).toMatch(/lr 0\.01, this one has 0\.5/);
    await device.close();
  });

  it('a truncated checkpoint is refused', async () => {
    const device = await openDevice();
    const checkpoint = path.join(folder, 'short.safetensors');
    await train(makeModel(device), { train: images, ...settings, epochs: 1, checkpoint });
    truncateSync(checkpoint, 200);
    const error = await errorOf(
      train(makeModel(device), { train: images, ...settings, epochs: 1, checkpoint, resume: true }),
    );
    expect(error.code).toBe('SIDETUNE_FORMAT');
    await device.close();
  });
});

describe('adapters', () => {
  it('come back bit for bit, with method, options and labels', async () => {
    const device = await openDevice();
    const backbone = vit(device, tiny, { seed: 3 });
    const model = petl.dtlPlus(backbone, {
      classes: 2,
      startBlock: 2,
      rank: 3,
      kernelSize: 5,
      labels: ['blue', 'red'],
    });
    const optimizer = adamW(model.parameters(), { lr: 0.05 });
    const batch = {
      images: new Float32Array(4 * 3 * 16 * 16).map((_, i) => Math.sin(i)),
      labels: Int32Array.from([0, 1, 1, 0]),
    };
    for (let i = 0; i < 3; i++) await model.step(batch, optimizer);
    const file = path.join(folder, 'adapter.safetensors');
    await model.save(file);
    const again = await petl.load(backbone, file);
    expect(again.method).toBe('dtlPlus');
    expect(again.methodOptions).toEqual(model.methodOptions);
    expect(again.options.labels).toEqual(['blue', 'red']);
    expect(await numbersOf(again)).toEqual(await numbersOf(model));
    expect(await again.predict(batch.images)).toEqual(await model.predict(batch.images));
    const [prediction] = await predict(again, [path.join(folder, 'images', 'red', '0.png')]);
    expect(prediction!.classes.map(({ label }) => label).sort()).toEqual(['blue', 'red']);
    await device.close();
  });

  it('are refused on another backbone, when damaged, and when they are something else', async () => {
    const device = await openDevice();
    const backbone = vit(device, tiny, { seed: 3 });
    const file = path.join(folder, 'refused.safetensors');
    await petl.dtl(backbone, { classes: 2, startBlock: 2 }).save(file);
    const other = vit(device, tiny, { seed: 4 });
    const before = device.memory().currentBytes;
    expect((await errorOf(petl.load(other, file))).message).toMatch(/made for backbone/);
    await petl.load(other, file, { otherBackbone: true }).then((model) => model.dispose());
    const bytes = readFileSync(file);
    writeFileSync(path.join(folder, 'cut.safetensors'), bytes.subarray(0, bytes.length - 10));
    expect((await errorOf(petl.load(backbone, path.join(folder, 'cut.safetensors')))).code).toBe('SIDETUNE_FORMAT');
    expect((await errorOf(petl.load(backbone, path.join(folder, 'missing.safetensors')))).code).toBe('SIDETUNE_FILE');
    expect(device.memory().currentBytes, 'nothing is left behind').toBe(before);
    await device.close();
  });

  it('saving where it cannot be done leaves nothing half-written', async () => {
    const device = await openDevice();
    const model = makeModel(device);
    const error = await errorOf(model.save(path.join(folder, 'no-such-folder', 'adapter.safetensors')));
    expect(error.code).toBe('SIDETUNE_FILE');
    await device.close();
  });
});

describe('bad input leaves a model usable', () => {
  const good = { images: new Float32Array(2 * 3 * 16 * 16), labels: Int32Array.from([0, 1]) };

  it.each([
    ['images of another size', { ...good, images: new Float32Array(100) }, 'SIDETUNE_SHAPE'],
    ['no images', { images: new Float32Array(0), labels: new Int32Array(0) }, 'SIDETUNE_SHAPE'],
    ['no labels', { ...good, labels: new Int32Array(0) }, 'SIDETUNE_SHAPE'],
    ['fewer labels than images', { ...good, labels: Int32Array.from([0]) }, 'SIDETUNE_SHAPE'],
    ['more labels than images', { ...good, labels: Int32Array.from([0, 1, 0]) }, 'SIDETUNE_SHAPE'],
    ['a label that is no class', { ...good, labels: Int32Array.from([0, 7]) }, 'SIDETUNE_ARGUMENT'],
    ['a negative label', { ...good, labels: Int32Array.from([-1, 0]) }, 'SIDETUNE_ARGUMENT'],
  ])('%s', async (_name, batch, code) => {
    const device = await openDevice();
    const model = makeModel(device);
    const optimizer = adamW(model.parameters());
    await model.step(good, optimizer);
    const before = device.memory().currentBytes;
    const error = await errorOf((async () => model.step(batch, optimizer))());
    expect(error.code).toBe(code);
    expect(device.memory().currentBytes).toBe(before);
    expect((await errorOf(model.evaluate(batch))).code).toBe(code);
    const { loss } = await model.step(good, optimizer);
    expect(loss).toBeGreaterThan(0);
    expect(device.memory().currentBytes).toBe(before);
    await device.close();
  });

  it.each([
    ['classes', { classes: 0 }],
    ['classes', { classes: Number.NaN }],
    ['dropPath', { classes: 2, dropPath: Number.NaN }],
    ['dropPath', { classes: 2, dropPath: 1 }],
    ['labelSmoothing', { classes: 2, labelSmoothing: 1.5 }],
    ['pool', { classes: 2, pool: 'max' }],
    ['retain', { classes: 2, retain: 'everything' }],
    ['rank', { classes: 2, rank: 0 }],
    ['startBlock', { classes: 2, startBlock: 13 }],
    ['beta', { classes: 2, beta: Number.POSITIVE_INFINITY }],
    ['kernelSize', { classes: 2, kernelSize: 2.5 }],
    ['kernel_size', { classes: 2, kernel_size: 3 }],
    ['labels', { classes: 2, labels: ['one'] }],
  ])('option %s: %o', async (argument, options) => {
    const device = await openDevice({ plan: true });
    const backbone = vit(device, tiny);
    const before = device.memory().currentBytes;
    const error = await errorOf((async () => petl.dtlPlus(backbone, { startBlock: 2, ...options } as never))());
    expect(error.code).toBe('SIDETUNE_ARGUMENT');
    expect(error.argument).toBe(argument);
    expect(device.memory().currentBytes).toBe(before);
    await device.close();
  });

  it.each([
    ['forward', (model: PetlModel) => model.forward(new Float32Array(0))],
    ['predict', (model: PetlModel) => model.predict(new Float32Array(0))],
    ['evaluate', (model: PetlModel) => model.evaluate({ images: new Float32Array(0), labels: new Int32Array(0) })],
    ['gradients', (model: PetlModel) => model.gradients({ images: new Float32Array(0), labels: new Int32Array(0) })],
    ['a tensor', (model: PetlModel) => Tensor.zeros(model.device, [0, 3, 16, 16])],
  ])('no image at all: %s', async (_name, call) => {
    const device = await openDevice();
    const model = makeModel(device);
    const { blocks } = device.memory();
    const error = await errorOf((async () => call(model))());
    expect(error.code).toBe('SIDETUNE_SHAPE');
    expect(error.message).toMatch(/at least (one image|1)/);
    expect(device.memory().blocks).toBe(blocks);
    await device.close();
  });
});

it('random initial values are those of the seed', async () => {
  const device = await openDevice();
  const [one, same, other] = [7, 7, 8].map((seed) => petl.dtl(vit(device, tiny), { classes: 2, startBlock: 2, seed }));
  expect(await numbersOf(one!)).toEqual(await numbersOf(same!));
  expect(await numbersOf(one!)).not.toEqual(await numbersOf(other!));
  expect(typeof init.zeros()).toBe('function');
  await device.close();
});
