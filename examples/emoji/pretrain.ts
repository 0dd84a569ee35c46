/**
 * Makes examples/emoji/backbone.safetensors: a small ViT pre-trained with the Full method on Google's emoji pictures, to tell 98 subcategories apart.
 * About half an hour on two cores; the main job uses the file that is checked in. Run: node dist/examples/emoji/pretrain.js [epochs] [seed]
 */

import { join } from 'node:path';
import { Device, data, models, petl, train } from '../../lib';
import { trainingProgress } from '../../lib/cli/progress';
import { exampleFolder, IMAGE_SIZE, pretraining } from './dataset';

/** The backbone of the example. */
export const backboneConfig = { imageSize: IMAGE_SIZE, patchSize: 8, dim: 192, depth: 12, heads: 3 };
export const backbonePath = (): string => join(exampleFolder(), 'backbone.safetensors');

async function main(epochs: number, seed: number): Promise<void> {
  const device = await Device.open('cpu');
  const split = pretraining();
  const [training, test] = await Promise.all([data.loadDataset(split.train), data.loadDataset(split.test)]);
  console.log(`${training.length} pictures of ${training.classes.length} subcategories, ${test.length} held out`);
  const backbone = models.vit(device, backboneConfig, { dtype: 'bf16', seed });
  const model = petl.full(backbone, { classes: training.classes.length, pool: 'patch_mean_then_norm', seed });
  const progress = trainingProgress(process.stderr);
  const summary = await train.train(model, {
    train: training,
    test,
    epochs,
    batchSize: 64,
    lr: 1e-3,
    weightDecay: 0.05,
    warmupEpochs: Math.ceil(epochs / 10),
    evaluateEvery: 5,
    seed,
    augment: data.affineAugment(),
    checkpoint: join(exampleFolder(), 'runs', 'pretrain.safetensors'),
    resume: true,
    onProgress: (state) => {
      progress.update(state);
      if (state.test) console.log(`epoch ${state.epoch}: held-out accuracy ${state.test.accuracy.toFixed(3)}`);
    },
  });
  progress.done();
  const tensors = new Map(model.parameters().map(({ name, tensor }) => [name, tensor]));
  await models.saveVit(backbone.config, (name) => tensors.get(name)!.alias(), backbonePath(), {
    dtype: 'bf16',
    name: 'vit-emoji-google',
  });
  console.log(
    `${backbonePath()}: held-out accuracy ${summary.test?.accuracy.toFixed(3)}, ${summary.imagesPerSecond.toFixed(0)} images/s`,
  );
  model.dispose();
  await device.close();
}

if (require.main === module) {
  main(Number(process.argv[2] ?? 40), Number(process.argv[3] ?? 0)).catch((error) => {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  });
}
