import { type Batch, batches, type Dataset, type LoadedDataset } from '../data';
import type { PetlModel } from '../petl';

export interface EvaluateOptions {
  /** Default 32. */
  batchSize?: number;
  onProgress?(done: number, total: number): void;
}

export interface Evaluation {
  loss: number;
  /** Top-1. */
  accuracy: number;
  images: number;
}

/** Mean loss and top-1 accuracy over a data set, in inference mode. */
export async function evaluate(
  model: PetlModel,
  dataset: Dataset | LoadedDataset,
  { batchSize = 32, onProgress }: EvaluateOptions = {},
): Promise<Evaluation> {
  let lossSum = 0;
  let correct = 0;
  let images = 0;
  const loader = batches(dataset, { batchSize, size: model.backbone.config.imageSize });
  for await (const batch of loader as AsyncIterable<Batch>) {
    const result = await model.evaluate(batch);
    lossSum += result.loss * result.images;
    correct += result.correct;
    images += result.images;
    onProgress?.(images, dataset.length);
  }
  return { loss: lossSum / images, accuracy: correct / images, images };
}
