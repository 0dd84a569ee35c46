/** `sidetune compare`: a table of methods, Ctrl-C and going on. What the figures are is tested in test/train/compare.test.ts. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { compile, type Outcome, parseReport, type RunOptions, sidetune } from './sidetune';
import { tempFolder, writeBackbone, writeImages } from './tiny';

const folder = tempFolder();
const at = (name: string): string => join(folder.path, name);

function compare(out: string, args: readonly string[] = [], options?: RunOptions): Promise<Outcome> {
  const images = ['--data', at('train'), '--test', at('test'), '--backbone', at('backbone.safetensors')];
  const settings = ['--batch', '5', '--lr', '0.02', '--option-of', 'dtl.startBlock=2', '--option-of', 'dtl.rank=3'];
  return sidetune(['compare', ...images, ...settings, '--out', at(out), ...args], options);
}
const methods = ['--methods', 'linear,dtl,full', '--lr-of', 'full=0.002', '--epochs', '4'];

beforeAll(async () => {
  await Promise.all([
    compile(),
    writeBackbone(at('backbone.safetensors')),
    writeImages(at('train')),
    writeImages(at('test'), 2),
  ]);
});
afterAll(folder.remove);

test('a row for each method, a line for each epoch', async () => {
  const { status, stdout, stderr } = await compare('run', [...methods, '--seeds', '0-1']);
  expect([status, stdout]).toEqual([0, expect.any(String)]);
  expect(stdout).toMatch(/\| method \| +test accuracy \| seeds \| parameters \| +peak \| images\/s \|/);
  expect(stdout).toMatch(/\| dtl +\| +[\d.]+ ± [\d.]+ % \| +2 \| +288 \| [\d.]+ [KM]iB \| +\S+ \|/);
  expect(stderr).toMatch(/^dtl, seed 1 \(5 of 6\)\nepoch 1\/4 .*\nepoch 2\/4 /m);
  expect(readdirSync(at('run'))).toHaveLength(6);

  const again = await compare('run', [...methods, '--seeds', '0,1', '--json', '-', '--no-progress']);
  expect([again.status, again.stderr]).toEqual([0, '']);
  const { rows } = parseReport(again.stdout, 'compare');
  expect(rows.map(({ method, seeds }) => [method, seeds])).toEqual([
    ['linear', [0, 1]],
    ['dtl', [0, 1]],
    ['full', [0, 1]],
  ]);

  const shown = await compare('run', [...methods, '--seeds', '0']);
  expect(shown.stderr).toMatch(/^all runs were finished in .*run already\n$/m);

  const other = await compare('run', [...methods, '--seeds', '0', '--lr', '0.5']);
  expect(other.status).toBe(2);
  expect(other.stderr).toMatch(/^error: .*linear-0\.json: is of a run with lr 0\.02, this one has 0\.5; expected the/m);
});

test('Ctrl-C prints what there is and ends with 130; the same command goes on', async () => {
  const args = ['--methods', 'linear,dtl', '--seeds', '3', '--epochs', '40', '--json', '-'];
  const accuracies = (text: string): unknown =>
    parseReport(text, 'compare').rows.map(({ method, accuracy, peakBytes }) => [method, accuracy, peakBytes]);
  const whole = await compare('whole', args);
  let sent = false;
  const first = await compare('stopped', args, {
    onStderr(text, child) {
      if (sent || !/dtl, seed 3 \(2 of 2\)\n(.*\n)*epoch 2\/40/.test(text)) return;
      sent = true;
      child.kill('SIGINT');
    },
  });
  expect(first.status).toBe(130);
  expect(first.stderr).toContain('stopped; the same command goes on');
  expect(accuracies(first.stdout)).toEqual((accuracies(whole.stdout) as unknown[]).slice(0, 1));
  const second = await compare('stopped', args);
  expect(second.status).toBe(0);
  expect(second.stderr).not.toContain('linear, seed 3');
  expect(accuracies(second.stdout)).toEqual(accuracies(whole.stdout));
});

test.each([
  ['an unknown method', ['--methods', 'dtl,dlt'], /'dtl,dlt' is invalid. Expected one of .*dtlPlus/],
  ['no methods', [], /required option '--methods <list>' not specified/],
  ['a rate without a method', ['--methods', 'dtl', '--lr-of', '0.1'], /'0\.1' is invalid. Expected 'method=rate'/],
  [
    'a rate that is none',
    ['--methods', 'dtl', '--lr-of', 'dtl=x'],
    /'dtl=x' is invalid. Expected a number of at least 0/,
  ],
  [
    'a rate of another method',
    ['--methods', 'dtl', '--lr-of', 'ssf=1'],
    /'lrOf' names 'ssf', expected one of the methods/,
  ],
  [
    'an option without a method',
    ['--methods', 'dtl', '--option-of', 'rank=1'],
    /'rank=1' is invalid. Expected 'method\.name/,
  ],
  ['an unknown option', ['--methods', 'dtl', '--option-of', 'dtl.rnak=1'], /petl\.dtl: unknown option 'rnak'/],
] as [string, string[], RegExp][])('%s is refused', async (_, args, said) => {
  const { status, stdout, stderr } = await compare('refused', args);
  expect([status, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(said);
});
