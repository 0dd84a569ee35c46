/** examples/custom-method: Conv-Adapter through the public door, held to what a built-in method is held to. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { convAdapter } from '../../examples/custom-method/conv_adapter';
import { autograd, Device, models, ops, optim, petl, Tensor } from '../../lib';
import { compile, parseReport, sidetune } from '../cli/sidetune';
import { tempFolder, writeBackbone } from '../cli/tiny';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 4, dim: 16, depth: 2, heads: 2 };
const random = new Random(1);
const batch = {
  images: Float32Array.from({ length: 4 * 3 * 16 * 16 }, () => random.normal()),
  labels: Int32Array.from([0, 1, 2, 0]),
};
const folder = tempFolder();
let device: Device;
let weights: string;

beforeAll(async () => {
  device = await Device.open('cpu');
  weights = await writeBackbone(join(folder.path, 'backbone.safetensors'));
});
afterAll(async () => {
  await device.close();
  folder.remove();
});

async function logitsOf(model: petl.PetlModel): Promise<Float32Array> {
  using logits = model.forward(batch.images);
  return (await logits.read()) as Float32Array;
}

/** On both branches of L blocks: W_down, K, W_up, α and b. */
const numbers = (depth: number, d: number, h: number, k: number): number => 2 * depth * (2 * d * h + h * k * k + 2 * d);

it('trains as many numbers as its formula says', async () => {
  await using plan = await Device.open('cpu', { plan: true });
  using base = models.vit(plan, 'vit_base_patch16_224');
  for (const [bottleneck, kernelSize] of [
    [8, 3],
    [16, 5],
  ] as const) {
    using model = convAdapter(base, { classes: 100, bottleneck, kernelSize });
    expect(model.parameterCount).toBe(numbers(12, 768, bottleneck, kernelSize));
  }
  using usual = convAdapter(base, { classes: 100 });
  expect(usual.parameterCount).toBe(333_504);
});

it('starts as the backbone, learns, and leaves the backbone as it was', async () => {
  using backbone = await models.load(device, weights);
  const before = await backbone.plain('blocks.1.mlp.fc1.weight').readBytes();
  using plain = petl.linear(backbone, { classes: 3, pool: 'cls' });
  using model = convAdapter(backbone, { classes: 3, bottleneck: 4 });
  // Not to the bit: for the plain backbone, whose tokens no hook looks at, the last block is computed for CLS alone.
  const frozen = await logitsOf(plain);
  for (const [i, logit] of (await logitsOf(model)).entries()) expect(logit).toBeCloseTo(frozen[i]!, 5);
  using optimizer = optim.adamW(model.parameters(), { lr: 0.02 });
  const start = await Promise.all(model.parameters().map(({ tensor }) => tensor.read()));
  const losses: number[] = [];
  for (let step = 0; step < 30; step++) losses.push((await model.step(batch, optimizer)).loss);
  expect(losses.at(-1)!).toBeLessThan(0.5 * losses[0]!);
  for (const [index, { name, tensor }] of model.parameters().entries())
    expect(await tensor.read(), name).not.toEqual(start[index]);
  expect(await backbone.plain('blocks.1.mlp.fc1.weight').readBytes()).toEqual(before);
});

it('has the gradients that its forward has', async () => {
  using backbone = await models.load(device, weights);
  using model = convAdapter(backbone, { classes: 3, bottleneck: 4 });
  const parameters = Object.fromEntries(model.parameters().map(({ name, tensor }) => [name, tensor]));
  for (const tensor of Object.values(parameters))
    tensor.write(Float32Array.from({ length: tensor.size }, () => 0.4 * random.normal()));
  using labels = Tensor.from(device, batch.labels, [4]);
  const loss = (): Tensor => ops.softmaxCrossEntropy(model.forward(batch.images), labels).loss;
  const rows = await autograd.check(loss, parameters);
  expect(rows.map(({ name }) => name)).toEqual(Object.keys(parameters));
});

it('lets CLS pass by the convolution', async () => {
  const [b, n, d] = [1, 17, 16];
  const f = Tensor.from(
    device,
    Float32Array.from({ length: b * n * d }, () => random.normal()),
    [b, n, d],
  );
  using backbone = models.vit(device, tiny, { seed: 1 });
  using model = convAdapter(backbone, { classes: 3, bottleneck: 4 });
  const { tensor: kernel } = model.parameters().find(({ name }) => name === 'conv.2.mlp.kernel')!;
  using narrow = ops.linear(f, model.parameters().find(({ name }) => name === 'conv.2.mlp.down')!.tensor);
  using out = ops.depthwiseConv(narrow, kernel, { grid: backbone.grid, prefixTokens: backbone.prefixTokens });
  const [before, after] = [await narrow.read(), await out.read()];
  expect(after.slice(0, 4)).toEqual(before.slice(0, 4));
  expect(after.slice(4, 8)).not.toEqual(before.slice(4, 8));
  f.dispose();
});

it('is saved and loaded', async () => {
  using backbone = models.vit(device, tiny, { seed: 1 });
  using model = convAdapter(backbone, { classes: 3, bottleneck: 4, kernelSize: 2 });
  for (const { tensor } of model.parameters())
    tensor.write(Float32Array.from({ length: tensor.size }, () => 0.3 * random.normal()));
  const path = join(folder.path, 'conv.safetensors');
  await model.save(path);
  using loaded = await petl.load(backbone, path);
  expect(loaded.methodOptions).toEqual({ bottleneck: 4, kernelSize: 2 });
  expect(await logitsOf(loaded)).toEqual(await logitsOf(model));
});

it('refuses options that make no sense', () => {
  using backbone = models.vit(device, tiny, { seed: 1 });
  expect(() => convAdapter(backbone, { classes: 3, bottleneck: 0 })).toThrow(
    "petl.convAdapter: 'bottleneck' is 0, expected a whole number of at least 1",
  );
  expect(() => convAdapter(backbone, { classes: 3, kernelSize: 1.5 })).toThrow(/'kernelSize' is 1\.5/);
});

it('runs from the command line as its README says', async () => {
  await compile();
  const method = ['--method', 'examples/custom-method/conv_adapter.ts', '--no-progress', '--json', '-'];
  const units = await sidetune(['bench', 'units', '--methods', 'dtl,adapter', ...method]);
  expect([units.status, units.stderr]).toEqual([0, '']);
  const row = { method: 'convAdapter', units: 24, parameters: 333_504, unit: 'module' };
  expect(parseReport(units.stdout, 'units').rows[2]).toEqual(row);
  const tinier = ['--model', 'vit_tiny_patch16_224', '--batch', '2'];
  const memory = await sidetune(['bench', 'memory', '--methods', 'linear', ...tinier, ...method]);
  expect([memory.status, memory.stderr]).toEqual([0, '']);
  expect(parseReport(memory.stdout, 'memory').rows.map(({ method: name }) => name)).toEqual(['linear', 'convAdapter']);
});
