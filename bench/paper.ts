/** What the DTL paper (arXiv 2312.07856, Tables 1, 2 and 6) says of the methods, to stand beside what is counted and measured here. */

import type { MemoryRow } from './memory';
import type { ThroughputRow } from './throughput';
import type { UnitsRow } from './units';

/** The paper's figures for a row; what it does not give is absent. */
export interface PaperFigures {
  /** Table 1. */
  units?: number;
  /** Table 2: trained numbers in millions, the head excluded; where tasks differ in size, the mean. */
  millions?: number;
  /** Table 2: training memory in GB at batch 32, mixed precision, with PyTorch on an RTX 3090. */
  gigabytes?: number;
  /** Table 6: inference at this batch on an RTX 3090, mixed precision. */
  imagesPerSecond?: number;
  /** The same over that of full. */
  relativeToFull?: number;
}

/** The paper's model. */
const paperModel = 'vit_base_patch16_224';
const paperBatch = 32;

/** Table 1 names no variant of FacT: both change the same slices. */
const table1: Readonly<Record<string, number>> = {
  lora: 24,
  noah: 36,
  factTt: 144,
  factTk: 144,
  ssf: 148,
  dtl: 12,
  dtlPlus: 13,
};

/** Its FacT is FacT-TK with ranks up to 32. */
const table2: Readonly<Record<string, readonly [millions: number, gigabytes: number]>> = {
  full: [85.8, 4.7],
  linear: [0, 0.6],
  bitfit: [0.1, 2.9],
  vptDeep: [0.56, 4.2],
  adaptFormer: [0.16, 2.8],
  lst: [2.38, 2.7],
  lora: [0.29, 3.0],
  noah: [0.43, 3.3],
  factTk: [0.07, 3.9],
  ssf: [0.21, 4.9],
  dtl: [0.04, 1.6],
  dtlPlus: [0.05, 1.7],
  dtlPlusStar: [0.05, 3.1],
};

const table6Batches: readonly number[] = [1, 4, 16];
const table6: Readonly<Record<string, readonly [number, number, number]>> = {
  full: [161, 636, 952],
  lst: [71, 279, 729],
  noah: [79, 306, 798],
  adaptFormer: [108, 436, 876],
  dtlPlus: [120, 469, 877],
  dtl: [131, 528, 892],
};

// Absent where there is no figure.
function present(figures: { [Name in keyof PaperFigures]: number | undefined }): PaperFigures {
  return Object.fromEntries(Object.entries(figures).filter(([, value]) => value !== undefined));
}

export function paperUnits({ method }: UnitsRow, model: string): PaperFigures {
  if (model !== paperModel) return {};
  return present({ units: table1[method], millions: table2[method]?.[0] });
}

/** The paper's memory is that of its own setting: batch 32, M = 7 (DTL+*: 1), activations kept. */
export function paperMemory({ model, method, batch, startBlock, retain, prefix }: MemoryRow): PaperFigures {
  if (model !== paperModel) return {};
  const [millions, gigabytes] = table2[method] ?? [];
  const usualStart = startBlock === null || startBlock === (method === 'dtlPlusStar' ? 1 : 7);
  const same = batch === paperBatch && usualStart && retain === 'activations' && prefix === 'keep';
  return present({ millions, gigabytes: same ? gigabytes : undefined });
}

export function paperThroughput({ model, method, batch }: ThroughputRow): PaperFigures {
  const column = table6Batches.indexOf(batch);
  const imagesPerSecond = model === paperModel ? table6[method]?.[column] : undefined;
  if (imagesPerSecond === undefined) return {};
  return { imagesPerSecond, relativeToFull: imagesPerSecond / table6.full![column]! };
}
