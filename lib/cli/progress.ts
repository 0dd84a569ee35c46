/** Live progress, for standard error: a bar on a terminal, plain lines elsewhere. Nothing is coloured, so NO_COLOR holds. */

import { SingleBar } from 'cli-progress';
import { bytes, digits, duration, percent } from './format';

/** Where progress is written: `process.stderr`, or a stream that looks like it. */
export type ProgressStream = NodeJS.WritableStream & { isTTY?: boolean; columns?: number };

/** Where a training run stands. `train.train` reports it; epochs and steps are counted from 1. */
export interface TrainingState {
  epoch: number;
  epochs: number;
  /** Of this epoch; the epoch is over when it equals `steps`. */
  step: number;
  steps: number;
  /** Mean over the epoch so far. */
  loss: number;
  /** Share of 1. */
  accuracy: number;
  imagesPerSecond: number;
  peakBytes: number;
  secondsLeft: number;
  /** When the test set was evaluated after this epoch. */
  test?: { accuracy: number };
}

/** Before the first step: images looked at for initial values. */
export interface StartState {
  images: number;
  of: number;
}

/** Shows something until it is done. `done` may be called at any time and gives the terminal back as it was. */
export interface Progress<State> {
  update(state: State): void;
  done(): void;
}

/** Work that is counted: `done` of `total`, and what is under way. */
export interface CountState {
  done: number;
  total: number;
  what: string;
}

/**
 * Progress of `train.train`: one live line on a terminal; elsewhere a line for each epoch.
 * @example
 * const progress = trainingProgress(process.stderr);
 * await train.train(model, { …, onProgress: (state) => progress.update(state) }).finally(() => progress.done());
 */
export function trainingProgress(stream: ProgressStream = process.stderr): Progress<TrainingState | StartState> {
  const numbers = ({ loss, accuracy, test, imagesPerSecond, peakBytes, secondsLeft }: TrainingState): string =>
    [
      `loss ${digits(loss)}`,
      `acc ${percent(accuracy)}`,
      ...(test ? [`test ${percent(test.accuracy)}`] : []),
      `${digits(imagesPerSecond)} img/s`,
      bytes(peakBytes),
      `${duration(secondsLeft)} left`,
    ].join('  ');
  if (!isTerminal(stream)) {
    const start = countProgress(stream);
    return {
      update(state) {
        if (!('epoch' in state)) start.update({ done: state.images, total: state.of, what: startText });
        else if (state.step === state.steps) stream.write(`epoch ${state.epoch}/${state.epochs}  ${numbers(state)}\n`);
      },
      done() {},
    };
  }
  return bar(stream, 78, (state: TrainingState | StartState) => {
    if (!('epoch' in state)) {
      return { done: state.images, total: state.of, text: `${state.images}/${state.of}  ${startText}` };
    }
    return {
      done: (state.epoch - 1) * state.steps + state.step,
      total: state.epochs * state.steps,
      text: `epoch ${state.epoch}/${state.epochs} ${state.step}/${state.steps}  ${numbers(state)}`,
    };
  });
}

const startText = 'images for initial values';

/** Progress of several training runs, one after the other, each under its title. */
export function titledProgress(
  stream: ProgressStream = process.stderr,
): Progress<(TrainingState | StartState) & { title: string }> {
  let current: { title: string; progress: Progress<TrainingState | StartState> } | undefined;
  return {
    update({ title, ...state }) {
      if (current?.title !== title) {
        current?.progress.done();
        stream.write(`${title}\n`);
        current = { title, progress: trainingProgress(stream) };
      }
      current.progress.update(state);
    },
    done: () => current?.progress.done(),
  };
}

/** Progress of something that is counted: a bar on a terminal; elsewhere a line when something else is under way, or every few seconds. */
export function countProgress(stream: ProgressStream = process.stderr): Progress<CountState> {
  if (isTerminal(stream)) {
    return bar(stream, 50, ({ done, total, what }: CountState) => ({ done, total, text: `${done}/${total}  ${what}` }));
  }
  let last: string | undefined;
  let lastTime = 0;
  return {
    update({ done, total, what }) {
      const now = performance.now();
      if (what === last && now - lastTime < plainIntervalMs) return;
      stream.write(`${done}/${total}  ${what}\n`);
      last = what;
      lastTime = now;
    },
    done() {},
  };
}

const plainIntervalMs = 2000;

/** Shows nothing. */
export const noProgress: Progress<unknown> = { update() {}, done() {} };

function isTerminal(stream: ProgressStream): boolean {
  return stream.isTTY === true && process.env.TERM !== 'dumb';
}

/** A bar as wide as the terminal allows beside a text of about `textWidth` characters. */
function bar<State>(
  stream: ProgressStream,
  textWidth: number,
  show: (state: State) => { done: number; total: number; text: string },
): Progress<State> {
  const barsize = Math.max(5, Math.min(30, (stream.columns ?? 80) - textWidth));
  const live = new SingleBar({
    stream,
    barsize,
    format: '{bar} {text}',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    hideCursor: true,
  });
  let started = false;
  const stop = (): void => {
    if (started) live.stop();
    started = false;
    process.off('exit', stop);
  };
  return {
    update(state) {
      const { done, total, text } = show(state);
      if (started) {
        live.setTotal(total);
        live.update(done, { text });
      } else {
        started = true;
        live.start(total, done, { text });
        process.once('exit', stop); // the cursor comes back whatever ends the process
      }
    },
    done: stop,
  };
}
