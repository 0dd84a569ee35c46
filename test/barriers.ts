/**
 * A test of the tests, on the check build: with any one __syncthreads or __syncwarp of native/cuda left out (SIDETUNE_EMULATION's "without"), some case of its
 * family must fail.
 */

import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, expect } from 'vitest';

const folder = path.join(__dirname, '..', 'native', 'cuda');
const BARRIER = /\b__sync(?:threads|warp)\([^;()]*\);/;

/** Whose cases come to the barriers of a header, by function. Other files have the family's name, as 'attention_f32.cu' has. */
const owners: Record<string, string> = {
  'patch_grid.cuh': 'side_inject',
  'warp.cuh warp_barrier': 'attention',
  'warp.cuh block_sum': 'layer_norm',
  'warp.cuh block_max': 'cross_entropy',
};

const families = readdirSync(path.join(__dirname, 'ops')).map((file) => file.replace('.test.ts', ''));

/** 'low_rank.cu:159' for each barrier of a family. */
export function barriersOf(family: string): string[] {
  return readdirSync(folder)
    .filter((file) => /\.cuh?$/.test(file))
    .flatMap((file) => {
      let name = '';
      const lines = readFileSync(path.join(folder, file), 'utf8').split('\n');
      return lines.flatMap((line, index) => {
        name = /^(?:__device__|__global__) .*?(\w+)\(/.exec(line)?.[1] ?? name;
        if (!BARRIER.test(line)) return [];
        const owner = owners[file] ?? owners[`${file} ${name}`] ?? path.parse(file).name;
        if (!families.some((other) => owner === other || owner.startsWith(`${other}_`)))
          throw new Error(`${file}:${index + 1}: say in test/barriers.ts whose cases come to this barrier`);
        return owner === family || owner.startsWith(`${family}_`) ? [`${file}:${index + 1}`] : [];
      });
    });
}

const missed = new Set<string>();
const begun = new Set<string>();

/** Called by each harness of a family: the barriers whose absence no harness of this file has noticed yet. At the end of the file there may be none. */
export function missedBarriers(family: string): Set<string> {
  if (begun.size === 0) afterAll(() => expect([...missed], 'no case can see that these are left out').toEqual([]));
  if (!begun.has(family)) for (const barrier of barriersOf(family)) missed.add(barrier);
  begun.add(family);
  return missed;
}
