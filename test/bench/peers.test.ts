/** The comparison with other software: what it compares, as far as it goes without them, and that they agree where they are there. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { compareLogits, compareLosses } from '../../bench/peers/agreement';
import { type Contender, type PeerPool, peerPools } from '../../bench/peers/contender';
import { encodeOnnx, OnnxruntimeInference } from '../../bench/peers/onnxruntime';
import { peersFile, requirePackage } from '../../bench/peers/packages';
import { peers, trainingSetup, wakeSideLayers, writeFiles } from '../../bench/peers/peers';
import { SidetuneInference, SidetuneTraining } from '../../bench/peers/sidetune';
import { findPython, pythonVariable, Torch, withoutTorch } from '../../bench/peers/torch';
import { type Graph, vitGraph } from '../../bench/peers/vit_graph';
import { type Weights, weightsOf } from '../../bench/peers/weights';
import { adapt, classes, trainingBatches } from '../../bench/setup';
import { ArgumentError, DeviceError, FileError } from '../../lib/errors';
import { Device, models } from '../../lib/index';
import { vitShapes } from '../../lib/models/vit';
import type { PetlModel } from '../../lib/petl';
import { tempFolder, writeBackbone } from '../cli/tiny';
import { Random } from '../random';

process.env.SIDETUNE_NUM_THREADS = '1'; // others test beside this

const missing = ((): string | undefined => {
  try {
    for (const name of ['onnxruntime-node', 'protobufjs']) requirePackage(name);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
})();

const folder = tempFolder();
const images = trainingBatches()(3, 16);
let device: Device;
let python: string | undefined;

beforeAll(async () => {
  device = await Device.open('cpu');
  await writeBackbone(join(folder.path, 'tiny.safetensors'));
  python = await findPython();
});
afterAll(async () => {
  await device.close();
  folder.remove();
});
afterEach(() => vi.unstubAllEnvs());

/** A model in which every tensor counts: no bias is 0, no norm is 1. */
async function tiny(method: string, pool: PeerPool): Promise<PetlModel> {
  const backbone = await models.load(device, join(folder.path, 'tiny.safetensors'));
  const model = adapt(method, backbone, { pool, ...(method.startsWith('dtl') ? { startBlock: 2 } : {}) });
  const random = new Random(2);
  const bias = model.parameters().find(({ name }) => name === 'head.bias')!.tensor;
  bias.write(Float32Array.from({ length: classes }, () => random.normal()));
  wakeSideLayers(model);
  return model;
}

/** The weights of a tiny model, and its logits. */
async function tinyInference(
  pool: PeerPool,
): Promise<{ weights: Weights; config: models.VitConfig; logits: ArrayLike<number> }> {
  const ours = new SidetuneInference(await tiny('linear', pool), 'f32', images);
  const { values: logits } = await ours.run(3, 2);
  const weights = await weightsOf(ours.model);
  const { config } = ours.model.backbone;
  await ours.close();
  return { weights, config, logits };
}

describe.each(peerPools)('the ONNX graph whose head reads %s', (pool) => {
  let graph: Graph;
  let weights: Weights;
  beforeAll(async () => {
    const inference = await tinyInference(pool);
    weights = inference.weights;
    graph = vitGraph(inference.config, weights, pool);
  });

  test('has the nodes of an exporter, and no more', () => {
    const found: Record<string, number> = {};
    for (const { opType } of graph.node) found[opType] = (found[opType] ?? 0) + 1;
    const depth = 3;
    expect(found).toEqual({
      Conv: 1,
      Shape: 1,
      Expand: 1,
      Concat: 2,
      Reshape: 1 + 4 * depth,
      Transpose: 1 + 4 * depth,
      LayerNormalization: 1 + 2 * depth,
      Split: depth,
      Mul: depth,
      Softmax: depth,
      Gelu: depth,
      MatMul: 6 * depth,
      Add: 1 + 6 * depth,
      ...(pool === 'cls' ? { Gather: 1 } : { Slice: 1, ReduceMean: 1 }),
      Gemm: 1,
    });
  });

  test('uses only what comes before, uses all of it, and names nothing twice', () => {
    const known = new Set(['images', ...graph.initializer.map(({ name }) => name)]);
    expect(known.size).toBe(1 + graph.initializer.length);
    const used = new Set<string>(['logits']);
    for (const { name, input, output } of graph.node) {
      for (const value of input) {
        expect(known, name).toContain(value);
        used.add(value);
      }
      for (const value of output) {
        expect(known, name).not.toContain(value);
        known.add(value);
      }
    }
    expect([...known].filter((value) => !used.has(value))).toEqual([]);
  });

  test('holds every weight: matrices of MatMul turned, the others as they are', () => {
    const { config } = models.vit(device, { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2, hidden: 32 });
    const shapes = new Map([...vitShapes(config), ['head.weight', [classes, 16]], ['head.bias', [classes]]]);
    const initializers = new Map(graph.initializer.map((one) => [one.name, one]));
    for (const [name, shape] of shapes) {
      const isTurned = /^blocks.*(qkv|proj|fc1|fc2)\.weight$/.test(name);
      const { dims, dataType, rawData } = initializers.get(isTurned ? `${name}.T` : name)!;
      expect([dims, dataType], name).toEqual([isTurned ? [...shape].reverse() : shape, 1]);
      const numbers = new Float32Array(rawData.slice().buffer);
      const { data } = weights.get(name)!;
      const [rows, columns] = isTurned ? (shape as [number, number]) : [1, data.length];
      expect(numbers[rows], name).toBe(data[1]);
      expect(numbers[(columns - 2) * rows + rows - 1], name).toBe(data[data.length - 2]);
    }
    const constants = [...initializers.keys()].filter((name) => !shapes.has(name.replace(/\.T$/, '')));
    expect(constants.every((name) => /^(ints\/|attn\.scale$)/.test(name))).toBe(true);
  });

  test('takes any number of images', () => {
    const shapeOf = ({ type }: Graph['input'][number]) => type.tensorType.shape.dim;
    expect(graph.input.map(({ name }) => name)).toEqual(['images']);
    expect(shapeOf(graph.input[0]!)).toEqual([
      { dimParam: 'batch' },
      { dimValue: 3 },
      { dimValue: 16 },
      { dimValue: 16 },
    ]);
    expect(graph.output.map(({ name }) => name)).toEqual(['logits']);
    expect(shapeOf(graph.output[0]!)).toEqual([{ dimParam: 'batch' }, { dimValue: classes }]);
  });

  test('comes back from protobuf as it went', ({ skip }) => {
    skip(missing !== undefined, missing);
    const decoded = decode(encodeOnnx(graph));
    const rounded = (attribute: Graph['node'][number]['attribute']) =>
      attribute.map((one) => (one.f === undefined ? one : { ...one, f: Math.fround(one.f) }));
    expect(decoded.node.map(({ attribute = [], ...node }) => ({ ...node, attribute }))).toEqual(
      graph.node.map(({ attribute, ...node }) => ({ ...node, attribute: rounded(attribute) })),
    );
    const readable = (initializers: Graph['initializer']) =>
      initializers.map(({ dims = [], rawData, ...rest }) => ({ ...rest, dims, bytes: [...rawData] }));
    expect(readable(decoded.initializer)).toEqual(readable(graph.initializer));
    expect([decoded.input, decoded.output]).toEqual([graph.input, graph.output]);
  });
});

/** What is in the bytes of an .onnx file, as far as onnx.proto goes; empty lists are left out. */
function decode(bytes: Uint8Array): Graph {
  const { loadSync } = requirePackage('protobufjs') as {
    loadSync(file: string): {
      lookupType(name: string): {
        decode(bytes: Uint8Array): object;
        toObject(message: object, options: object): object;
      };
    };
  };
  const type = loadSync(peersFile('onnx.proto')).lookupType('onnx.ModelProto');
  return (type.toObject(type.decode(bytes), { longs: Number }) as { graph: Graph }).graph;
}

describe('the packages', () => {
  test('that are missing are a FileError that says how to get them', () => {
    expect(() => requirePackage('no-such-package')).toThrow(FileError);
    expect(() => requirePackage('no-such-package')).toThrow('npm ci --prefix bench/peers');
  });
});

describe('the Python with PyTorch', () => {
  /** Makes a python3 that ends with a status the only command there is. */
  function stubPython(status: number): string {
    const bin = join(folder.path, `bin-${status}`);
    mkdirSync(bin, { recursive: true });
    const file = join(bin, 'python3');
    writeFileSync(file, `#!/bin/sh\necho "ModuleNotFoundError: No module named 'torch'" >&2\nexit ${status}\n`);
    chmodSync(file, 0o755);
    vi.stubEnv('PATH', bin);
    vi.stubEnv(pythonVariable, '');
    return file;
  }

  test('is python3 where that can import torch', async () => {
    stubPython(0);
    expect(await findPython()).toBe('python3');
  });

  test('is missing where it cannot, and where there is no python3; a run then says so', async () => {
    stubPython(1);
    expect(await findPython()).toBeUndefined();
    vi.stubEnv('PATH', folder.path);
    expect(await findPython()).toBeUndefined();
    expect(withoutTorch).toMatch(/without PyTorch.*--python.*SIDETUNE_PEER_PYTHON/);
    expect(withoutTorch).not.toContain('\n');
  });

  test('must be one when it is named', async () => {
    const file = stubPython(1);
    await expect(findPython(file)).rejects.toThrow(ArgumentError);
    vi.stubEnv(pythonVariable, file);
    await expect(findPython()).rejects.toThrow(
      'expected a Python that can import torch (ModuleNotFoundError: No module',
    );
  });

  test('that ends is a DeviceError with its last words', async () => {
    const file = stubPython(1);
    const setup = { task: 'inference', dtype: 'f32', threads: 1, pool: 'cls', weights: '', images: '' } as const;
    const { config } = models.vit(device, { imageSize: 16, patchSize: 8, dim: 16, depth: 1, heads: 2 });
    const opened = Torch.open(file, { ...setup, config });
    await expect(opened).rejects.toThrow(DeviceError);
    await expect(opened).rejects.toThrow("'torch f32' ended: ModuleNotFoundError: No module named 'torch'");
  });
});

describe('agreement', () => {
  const random = new Random(3);
  const logits = Float32Array.from({ length: 2 * classes }, () => random.normal());
  const f32: Pick<Contender, 'software' | 'dtype'> = { software: 'torch', dtype: 'f32' };
  const bf16: typeof f32 = { software: 'torch', dtype: 'bf16' };
  const swapped = Float32Array.from([...logits.subarray(classes), ...logits.subarray(0, classes)]);
  const oneNaN = logits.map((value, i) => (i === 5 ? Number.NaN : value));

  test('is measured', () => {
    const close = logits.map((value) => value * (1 + 1e-6));
    const { difference, cosine } = compareLogits(f32, close, logits, 2);
    expect(difference).toBeGreaterThan(5e-7);
    expect(difference).toBeLessThan(2e-6);
    expect(cosine).toBeCloseTo(1, 6);
    expect(compareLosses(bf16, [4.004, 3], [4, 3]).difference).toBeCloseTo(1e-3, 6);
  });

  test.each([
    ['scaled logits', f32, logits.map((value) => 1.001 * value)],
    ['images in another order', f32, swapped],
    ['images in another order, bf16', bf16, swapped],
    ['a NaN', f32, oneNaN],
    ['a NaN, bf16', bf16, oneNaN],
    ['zeros', bf16, new Float32Array(2 * classes)],
    ['too few', f32, logits.subarray(0, classes)],
    ['too few, bf16', bf16, logits.subarray(0, classes)],
    ['too many', f32, Float32Array.from([...logits, 0])],
  ])('refuses %s', (_, contender, values) => {
    expect(() => compareLogits(contender, values, logits, 2)).toThrow(DeviceError);
  });

  test('refuses losses that part', () => {
    expect(() => compareLosses(f32, [4, 3.001], [4, 3])).toThrow(
      "peers: losses of 'torch f32' have a largest difference of",
    );
    for (const losses of [[4, 3.1], [4, Number.NaN], [4], [4, 3, 2]])
      expect(() => compareLosses(bf16, losses, [4, 3])).toThrow(DeviceError);
  });
});

test.for(peerPools)('onnxruntime computes what we compute, read at %s', async (pool, { skip }) => {
  skip(missing !== undefined, missing);
  const { weights, config, logits } = await tinyInference(pool);
  const run = async (those: Weights): Promise<ArrayLike<number>> => {
    const peer = await OnnxruntimeInference.open(config, those, { images: images.images, threads: 1, pool });
    const { values } = await peer.run(3, 2);
    await peer.close();
    return values;
  };
  const peer = { software: 'onnxruntime', dtype: 'f32' } as const;
  compareLogits(peer, await run(weights), logits, 3);
  // Every kind of tensor is seen: without one of them the outputs part.
  for (const name of weights.keys()) {
    if (/^blocks\.[12]\./.test(name)) continue;
    const { shape, data } = weights.get(name)!;
    const damaged = new Map(weights).set(name, { shape, data: data.map((value) => value * 1.25) });
    const values = await run(damaged);
    expect(() => compareLogits(peer, values, logits, 3), name).toThrow(DeviceError);
  }
});

describe('PyTorch', () => {
  test.for(peerPools)('computes what we compute, read at %s', async (pool, { skip }) => {
    skip(python === undefined, withoutTorch);
    const { weights, config, logits } = await tinyInference(pool);
    const files = await writeFiles({ python, folder: folder.path, config }, weights, images);
    for (const dtype of ['f32', 'bf16'] as const) {
      const peer = await Torch.open(python!, { task: 'inference', dtype, threads: 1, config, pool, ...files });
      compareLogits(peer, (await peer.run(3, 2)).values, logits, 3);
      await peer.close();
    }
  });

  test.for(['linear', 'dtl', 'dtlPlus', 'full'])('trains %s as we do', async (method, { skip }) => {
    skip(python === undefined, withoutTorch);
    const ours = new SidetuneTraining(await tiny(method, 'patch_mean_then_norm'), 'f32', images);
    const { config } = ours.model.backbone;
    const files = await writeFiles({ python, folder: folder.path, config }, await weightsOf(ours.model), images);
    const peer = await Torch.open(python!, trainingSetup(ours, 1, files));
    const [mine, theirs] = [await ours.run(3, 3), await peer.run(3, 3)];
    compareLosses(peer, theirs.values, mine.values);
    expect(theirs.residentPeakBytes).toBeGreaterThan(50e6);
    await ours.close();
    await peer.close();
  });
});

describe('a run', () => {
  const options = {
    model: 'vit_tiny_patch16_224',
    dtype: ['f32', 'bf16'] as const,
    batch: [1],
    pool: 'cls' as const,
    samples: 3,
    methods: ['dtl'],
    trainBatch: 2,
    steps: 1,
  };

  test('has rows of all contenders, and counts its work to the end', async ({ skip }) => {
    skip(missing !== undefined, missing);
    const counts: [number, number][] = [];
    const { rows } = await peers({ ...options, onProgress: (done, total) => counts.push([done, total]) });
    expect(rows.map(({ software, dtype, runs }) => [software, dtype, runs])).toEqual([
      ['sidetune', 'f32', 3],
      ['sidetune', 'bf16', 3],
      ['onnxruntime', 'f32', 3],
    ]);
    const [f32, bf16, ort] = rows as [(typeof rows)[0], (typeof rows)[0], (typeof rows)[0]];
    for (const ours of [f32, bf16]) {
      const ratio = ort.sidetuneRatios[ours.dtype]!;
      expect(ratio).toBeGreaterThanOrEqual(ours.imagesPerSecond.min / ort.imagesPerSecond.max);
      expect(ratio).toBeLessThanOrEqual(ours.imagesPerSecond.max / ort.imagesPerSecond.min);
    }
    expect(f32.sidetuneRatios.f32).toBe(1);
    expect(counts).toEqual(counts.map((_, i) => [i, counts.length - 1]));
  });

  test('that is stopped gives the samples that it has', async ({ skip }) => {
    skip(missing !== undefined, missing);
    const controller = new AbortController();
    const onProgress = (done: number): void => {
      if (done === 7) controller.abort(); // three are opened, three warm up, the seventh and eighth sample
    };
    const { rows } = await peers({ ...options, signal: controller.signal, onProgress });
    expect(rows.map(({ software, dtype, runs }) => [software, dtype, runs])).toEqual([
      ['sidetune', 'f32', 1],
      ['sidetune', 'bf16', 1],
    ]);
  });

  test('refuses a model that is not there', async () => {
    await expect(peers({ ...options, model: 'resnet50' })).rejects.toThrow(
      "peers: unknown model 'resnet50', known: vit_",
    );
  });
});
