/** One run of the command line: how it is stopped, what it shows while it works, how it ends. */

import { constants } from 'node:os';
import { CommanderError } from 'commander';
import { ArgumentError, SidetuneError } from '../errors';
import {
  type CountState,
  countProgress,
  noProgress,
  type Progress,
  type StartState,
  type TrainingState,
  titledProgress,
  trainingProgress,
} from './progress';

const controller = new AbortController();
let stoppedBy: 'SIGINT' | 'SIGTERM' | undefined;
let live = true;

/** Aborts at the first Ctrl-C; commands then finish the step that they are in and give what they have. */
export const signal: AbortSignal = controller.signal;

/** From now on the first Ctrl-C stops in order, a second one at once. */
export function catchSignals(): void {
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (stoppedBy) process.exit(128 + constants.signals[name]);
      stoppedBy = name;
      controller.abort();
      process.stderr.write('\nstopping after the step that is running; once more stops at once\n');
    });
  }
}

/** --no-progress: nothing is shown while commands work. */
export function showProgress(value: boolean): void {
  live = value;
}

/** A sentence on standard error, unless nothing shall be shown. */
export function notice(sentence: string): void {
  if (live) process.stderr.write(`${sentence}\n`);
}

/** Runs `body` with a progress that counts. */
export function counted<T>(body: (progress: Progress<CountState>) => Promise<T>): Promise<T> {
  return shown(live ? countProgress() : noProgress, body);
}

/** Runs `body` with the progress of a training run. */
export function trained<T>(body: (progress: Progress<TrainingState | StartState>) => Promise<T>): Promise<T> {
  return shown(live ? trainingProgress() : noProgress, body);
}

/** Runs `body` with the progress of several training runs. */
export function trainedInTurn<T>(
  body: (progress: Progress<(TrainingState | StartState) & { title: string }>) => Promise<T>,
): Promise<T> {
  return shown(live ? titledProgress() : noProgress, body);
}

async function shown<State, T>(progress: Progress<State>, body: (progress: Progress<State>) => Promise<T>): Promise<T> {
  try {
    return await body(progress);
  } finally {
    progress.done();
  }
}

/** 0: done, 1: failed, 2: wrong use, 130: stopped by Ctrl-C. */
export function exitCode(error?: unknown): number {
  if (stoppedBy) return 128 + constants.signals[stoppedBy];
  if (error === undefined) return 0;
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  return error instanceof ArgumentError ? 2 : 1;
}

/** One sentence on standard error; what commander refuses it has said itself. */
export function report(error: unknown, debug: boolean): void {
  if (error instanceof CommanderError || (stoppedBy && error === signal.reason)) return;
  const sentence = error instanceof Error ? error.message : String(error);
  const hint = error instanceof SidetuneError || debug ? '' : ' (--debug shows where)';
  process.stderr.write(`error: ${sentence}${hint}\n`);
  for (let cause = error; debug && cause instanceof Error; cause = cause.cause)
    process.stderr.write(`${cause.stack}\n`);
}
