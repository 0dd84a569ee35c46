/** Live progress on streams that stand in for a terminal and for a file. */
import { Writable } from 'node:stream';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { bytes, count, digits, duration, metric, percent } from '../../lib/cli/format';
import { countProgress, type ProgressStream, type TrainingState, trainingProgress } from '../../lib/cli/progress';

class Screen extends Writable {
  text = '';
  readonly columns: number;
  constructor(
    readonly isTTY: boolean,
    columns = 120,
  ) {
    super();
    this.columns = columns;
  }
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

const state = (changes: Partial<TrainingState> = {}): TrainingState => ({
  epoch: 1,
  epochs: 3,
  step: 1,
  steps: 2,
  loss: 0.7312,
  accuracy: 0.8125,
  imagesPerSecond: 45.12,
  peakBytes: 512 * 2 ** 20,
  secondsLeft: 72,
  ...changes,
});

afterEach(() => vi.unstubAllEnvs());

describe('trainingProgress', () => {
  test('writes one line for each epoch where there is no terminal', () => {
    const screen = new Screen(false);
    const progress = trainingProgress(screen);
    progress.update(state());
    expect(screen.text).toBe('');
    progress.update(state({ step: 2 }));
    progress.update(state({ epoch: 2, step: 2, test: { accuracy: 0.5 } }));
    progress.done();
    expect(screen.text.split('\n')).toEqual([
      'epoch 1/3  loss 0.731  acc 81.3 %  45.1 img/s  512 MiB  1:12 left',
      'epoch 2/3  loss 0.731  acc 81.3 %  test 50.0 %  45.1 img/s  512 MiB  1:12 left',
      '',
    ]);
  });

  test('shows images looked at for initial values, and goes on to the epochs', () => {
    for (const isTerminal of [false, true]) {
      const screen = new Screen(isTerminal);
      const progress = trainingProgress(screen as unknown as ProgressStream);
      progress.update({ images: 1, of: 20 });
      progress.update({ images: 20, of: 20 });
      progress.update(state({ step: 2 }));
      progress.done();
      expect(screen.text).toContain('1/20  images for initial values');
      expect(screen.text).toContain('epoch 1/3');
    }
  });

  test('keeps one line alive on a terminal and gives the terminal back', () => {
    const screen = new Screen(true);
    const progress = trainingProgress(screen as unknown as ProgressStream);
    progress.update(state());
    progress.update(state({ epoch: 3, step: 2, loss: 0.25 }));
    progress.done();
    progress.done();
    expect(screen.text).toContain('epoch 1/3 1/2  loss 0.731  acc 81.3 %  45.1 img/s  512 MiB  1:12 left');
    expect(screen.text).toContain('epoch 3/3 2/2  loss 0.250');
    expect(screen.text).toContain('█');
    expect(screen.text.match(/\n/g)).toHaveLength(1);
    expect(screen.text.lastIndexOf('\u001b[?25h')).toBeGreaterThan(screen.text.lastIndexOf('\u001b[?25l'));
    const sequences = screen.text.split('\u001b').slice(1);
    expect(sequences.filter((sequence) => /^\[[\d;]*m/.test(sequence))).toEqual([]); // no colours
  });

  test('a live line fits into 80 columns', () => {
    const screen = new Screen(true, 80);
    const progress = trainingProgress(screen as unknown as ProgressStream);
    progress.update(state({ epoch: 10, epochs: 30, step: 17, steps: 40 }));
    progress.done();
    const line = screen.text.split('\u001b').find((part) => part.includes('epoch'))!;
    const shown = line.slice(line.search(/[█░]/)).trimEnd();
    expect(shown).toMatch(/left$/);
    expect(shown.length).toBeLessThanOrEqual(80);
  });

  test('a dumb terminal gets plain lines', () => {
    vi.stubEnv('TERM', 'dumb');
    const screen = new Screen(true);
    const progress = trainingProgress(screen as unknown as ProgressStream);
    progress.update(state({ step: 2 }));
    progress.done();
    expect(screen.text).toMatch(/^epoch 1\/3 .* left\n$/);
  });
});

test('countProgress writes a line whenever something else is under way', () => {
  const screen = new Screen(false);
  const progress = countProgress(screen);
  progress.update({ done: 0, total: 4, what: 'dtl' });
  progress.update({ done: 1, total: 4, what: 'dtl' });
  progress.update({ done: 2, total: 4, what: 'full' });
  progress.done();
  expect(screen.text).toBe('0/4  dtl\n2/4  full\n');
});

describe('numbers', () => {
  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.00 KiB'],
    [10 * 2 ** 20, '10.0 MiB'],
    [512 * 2 ** 20, '512 MiB'],
    [1023.9 * 2 ** 20, '1.00 GiB'],
    [1.5 * 2 ** 50, '1536 TiB'],
  ])('bytes(%d) is %s', (value, text) => expect(bytes(value)).toBe(text));

  test.each([
    [0, '0'],
    [768, '768'],
    [151_296, '151 k'],
    [999_600, '1.00 M'],
    [14_873_001_984, '14.9 G'],
  ])('metric(%d) is %s', (value, text) => expect(metric(value)).toBe(text));

  test.each([
    [7.4, '0:07'],
    [59.6, '1:00'],
    [750, '12:30'],
    [3723, '1:02:03'],
    [Number.POSITIVE_INFINITY, '-'],
  ])('duration(%d) is %s', (value, text) => expect(duration(value)).toBe(text));

  test('digits, percent, count', () => {
    expect([digits(0.1234), digits(9.999), digits(45.12), digits(1234.5), digits(Number.NaN)]).toEqual([
      '0.123',
      '10.0',
      '45.1',
      '1235',
      '-',
    ]);
    expect([percent(0.8125), percent(1), percent(Number.NaN)]).toEqual(['81.3 %', '100.0 %', '-']);
    expect(count(85_798_656)).toBe('85,798,656');
  });
});
