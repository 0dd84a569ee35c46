/** What every model takes, whatever its method. */

import { ArgumentError } from '../errors';
import type { Retain } from '../models';

/** Where the head reads: CLS after the final norm; the mean of the patches, then the norm; the norm, then the mean of the patches. */
export type Pool = 'cls' | 'patch_mean_then_norm' | 'norm_then_patch_mean';

export const pools: readonly Pool[] = ['cls', 'patch_mean_then_norm', 'norm_then_patch_mean'];

export interface ModelOptions {
  /** Number of classes of the task. */
  classes: number;
  /** Names of the classes; kept with the adapter. */
  labels?: readonly string[];
  /** Default: the method's own, 'patch_mean_then_norm' for DTL. */
  pool?: Pool;
  /** Rate of stochastic depth at the last block; it grows linearly from 0 at the first. Default 0. */
  dropPath?: number;
  /** 'activations' (default): fast. 'block-inputs': blocks that gradients flow through run again in backward. */
  retain?: Retain;
  /** What side layers read in blocks that nothing flows back through: 'keep' (default) it, or 'recompute' those blocks in backward. */
  prefix?: 'keep' | 'recompute';
  /** Of initial values and drop path. Default 0. */
  seed?: number;
  /**
   * Passes of a batch size that came before are replayed as they were recorded (`device.record`), where the method is pure. Default true; false makes
   * every call anew. The numbers are the same to the bit.
   */
  replay?: boolean;
  /** Share of each label spread over all classes. Default 0. */
  labelSmoothing?: number;
}

/** @throws ArgumentError naming the option */
export function checkOptions(
  method: string,
  { classes, pool, dropPath, retain, prefix, seed, labelSmoothing, labels }: ModelOptions,
): void {
  const refuse = (argument: string, got: unknown, expected: string): never => {
    const text = typeof got === 'string' ? `'${got}'` : String(got);
    throw new ArgumentError(`petl.${method}: '${argument}' is ${text}, expected ${expected}`, {
      kernel: `petl.${method}`,
      argument,
      got: String(got),
      expected,
    });
  };
  const oneOf = (argument: string, got: unknown, choices: readonly string[]): void => {
    if (got !== undefined && !choices.includes(got as string)) refuse(argument, got, `one of ${choices.join(', ')}`);
  };
  if (!Number.isInteger(classes) || classes < 1) refuse('classes', classes, 'a whole number of at least 1');
  oneOf('pool', pool, pools);
  oneOf('retain', retain, ['activations', 'block-inputs']);
  oneOf('prefix', prefix, ['keep', 'recompute']);
  if (dropPath !== undefined && !(dropPath >= 0 && dropPath < 1))
    refuse('dropPath', dropPath, 'a number from 0 to below 1');
  if (seed !== undefined && !(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32))
    refuse('seed', seed, 'a whole number from 0 to 4294967295');
  if (labelSmoothing !== undefined && !(labelSmoothing >= 0 && labelSmoothing < 1)) {
    refuse('labelSmoothing', labelSmoothing, 'a number from 0 to below 1');
  }
  if (labels && labels.length !== classes) refuse('labels', `${labels.length} names`, `${classes} names`);
}
