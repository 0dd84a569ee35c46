/** NOAH's pipeline but for its end: the supernet is trained with subnets drawn step by step, then the search judges subnets by it. */

import { Rng } from '../data';
import type { Vit } from '../models';
import {
  drawNoahSizes,
  type NoahCandidate,
  type NoahSearchOptions,
  noahSupernet,
  searchNoah,
  uniformSizes,
} from '../petl';
import { definedOnly } from '../petl/method';
import { evaluate } from './evaluate';
import { type TrainOptions, train } from './train';

export interface NoahRunOptions
  extends Omit<TrainOptions, 'test' | 'evaluateEvery' | 'beforeStep'>,
    Pick<NoahSearchOptions, 'sizes' | 'depths' | 'budget' | 'generations' | 'population' | 'parents'> {
  classes: number;
  /** Images by which subnets are judged; not the test set. */
  validation: NonNullable<TrainOptions['test']>;
  /** Rate of stochastic depth. Default 0. */
  dropPath?: number;
  /** Rate of dropout in the modules. Default 0.1. */
  dropout?: number;
  /** After each generation of the search. */
  onGeneration?: NoahSearchOptions['onProgress'];
}

type Settings = Pick<NoahSearchOptions, 'budget' | 'generations' | 'population' | 'parents' | 'signal' | 'onProgress'>;

// Streams of random numbers, apart from those of the data loader.
const [drawing, searching] = [31, 32];

/**
 * Finds the sizes of a NOAH subnet for a task: trains the supernet, then searches. `petl.noah(backbone, { sizes })`, trained anew, is the method's result.
 * Rates of the paper: `lr` 5e-4, `weightDecay` 1e-4, 500 epochs.
 * @returns the best subnet with its accuracy on the validation images; undefined when stopped before any was judged
 */
export async function findNoahSizes(backbone: Vit, options: NoahRunOptions): Promise<NoahCandidate | undefined> {
  const { classes, validation, dropPath = 0, dropout = 0.1, seed = 0, batchSize = 32 } = options;
  const { depth, dim } = backbone.config;
  const {
    sizes: choices = [1, 5, 10],
    depths,
    budget,
    generations,
    population,
    parents,
    signal,
    onGeneration,
  } = options;
  const space = { depth, sizes: choices, ...(depths ? { depths } : {}) };
  const sizes = uniformSizes(depth, Math.max(...choices));
  using model = noahSupernet(backbone, { classes, seed, dropPath, dropout, maxSize: Math.max(...choices), sizes });
  const summary = await train(model, {
    ...options,
    beforeStep: () => {
      const random = new Rng(seed, [drawing, model.steps]);
      Object.assign(
        sizes,
        drawNoahSizes(() => random.uniform(), space),
      );
    },
  });
  if (summary.stopped) return undefined;
  const random = new Rng(seed, [searching]);
  return await searchNoah({
    ...space,
    dim,
    random: () => random.uniform(),
    fitness: async (candidate) => {
      Object.assign(sizes, candidate);
      return (await evaluate(model, validation, { batchSize })).accuracy;
    },
    ...(definedOnly({ budget, generations, population, parents, signal, onProgress: onGeneration }) as Settings),
  });
}
