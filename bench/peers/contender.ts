/** What is compared: software that makes passes when it is told to, and the order in which they are told. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Compute } from '../harness';

/** What came of some passes. */
export interface Answer {
  /** Of all passes, without what it takes to ask for them and to answer. */
  seconds: number;
  /** Inference: logits [batch, classes] of the last pass. Training: the loss of each step. */
  values: ArrayLike<number>;
  /** Training, ours: the highest sum of all tensors and scratch so far. */
  tensorPeakBytes?: number;
  /** Training, software in a process of its own: the highest resident set so far, its interpreter and libraries included. */
  residentPeakBytes?: number;
}

/** Where a head can read that all contenders have. */
export const peerPools = ['cls', 'patch_mean_then_norm'] as const;

export type PeerPool = (typeof peerPools)[number];

/** One software in one dtype with one task; all contenders of a comparison hold the same weights and images. */
export interface Contender {
  readonly software: string;
  readonly version: string;
  readonly dtype: Compute;
  /** Passes over the first `batch` images, one after the other: forward, or whole training steps. */
  run(batch: number, passes: number): Promise<Answer>;
  close(): Promise<void>;
}

/** 'torch bf16' */
export function nameOf({ software, dtype }: Pick<Contender, 'software' | 'dtype'>): string {
  return `${software} ${dtype}`;
}

// Threads of a pool spin for some milliseconds after their work; they must not spin into the next one's sample.
const restMs = 50;

/** What a contender has done so far. */
export interface Entry {
  contender: Contender;
  /** In one sample. */
  passes: number;
  imagesPerSecond: number[];
  last: Answer;
}

/** Samples in turn, A B C A B C …, so that a machine that changes its speed changes it for all. */
export async function sampleInTurn(
  entries: readonly Entry[],
  {
    batch,
    samples,
    signal,
    before,
  }: { batch: number; samples: number; signal: AbortSignal | undefined; before(entry: Entry): void },
): Promise<void> {
  for (let sample = 0; sample < samples; sample++) {
    for (const entry of entries) {
      if (signal?.aborted) return;
      before(entry);
      await sleep(restMs);
      entry.last = await entry.contender.run(batch, entry.passes);
      entry.imagesPerSecond.push((batch * entry.passes) / entry.last.seconds);
    }
  }
}
