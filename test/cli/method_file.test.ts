/** Methods of the user's own, from files: in the benches, in training, and what goes wrong with them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compile, parseReport, sidetune } from './sidetune';
import { tempFolder, writeBackbone, writeImages } from './tiny';

const folder = tempFolder();
const at = (name: string): string => join(folder.path, name);
const tiny = ['--model', 'vit_tiny_patch16_224', '--no-progress'];

/** A bottleneck of `width` behind the MLP, in TypeScript. */
const bottleneck = (name: string): string => `
import { helper } from './helper';
import { ops, petl } from 'sidetune';
interface Options { width: number }
export const method = petl.define<Options>('${name}', { width: 4 }, {
  parameters: ({ config }, init, { width }) => ({
    'own.down': { shape: [width, config.dim], init: init.uniform(0.3) },
    'own.up': { shape: [config.dim, width], init: init.zeros() },
  }),
  branch: (_i, which, y, _stream, p) => helper(which) ? ops.linear(ops.relu(ops.linear(y, p['own.down']!)), p['own.up']!, undefined, { residual: y }) : y,
});
`;

const files: Record<string, string> = {
  'bottleneck.ts': bottleneck('bottleneck'),
  'helper.ts': "export const helper = (which: 'attn' | 'mlp'): boolean => which === 'mlp';",
  // Another copy of the package beside the file is not the one that runs.
  'node_modules/sidetune/package.json': '{ "name": "sidetune", "version": "0.0.1", "main": "index.js" }',
  'node_modules/sidetune/index.js': "throw new Error('another copy was loaded');",
  'pair.mjs': `
    import sidetune, { petl } from 'sidetune';
    import * as names from 'sidetune';
    if (sidetune.petl !== petl || names.petl !== petl) throw new Error('several copies');
    await Promise.resolve();
    export const plain = petl.define('plain', {}, {});
    export const biased = petl.define('biased', {}, { trains: (name) => name.endsWith('bias') });
  `,
  'plain.cjs': "module.exports = require('sidetune').petl.define('required', {}, {});",
  'nothing.js': 'module.exports = 1;',
  'throws.js': "throw new TypeError('not today');",
  'broken.ts': 'const = 1;',
  'foreign.ts': "import 'no-such-package';",
  'taken.ts': "import { petl } from 'sidetune'; petl.define('dtl', {}, {});",
  'own_class.ts': "import { FormatError } from 'sidetune'; throw new FormatError('no table');",
  'notes.txt': '',
};

beforeAll(async () => {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(at(name)), { recursive: true });
    writeFileSync(at(name), text);
  }
  await Promise.all([
    compile(),
    writeBackbone(at('backbone.safetensors')),
    writeImages(at('train')),
    writeImages(at('test'), 2),
  ]);
});
afterAll(folder.remove);

const own = ['--method', at('bottleneck.ts'), '--method', at('pair.mjs'), '--method', at('plain.cjs')];
const names = ['bottleneck', 'plain', 'biased', 'required'];

describe('methods of files stand behind the named ones', () => {
  const methodsOf = async (args: string[], bench: string): Promise<unknown[]> => {
    const { status, stdout, stderr } = await sidetune(['bench', bench, ...tiny, ...args, '--json', '-']);
    expect([status, stderr]).toEqual([0, '']);
    return parseReport(stdout, bench).rows.map(({ method }) => method);
  };

  test('units: of every method', async () => {
    const { stdout } = await sidetune(['bench', 'units', ...own, '--no-progress', '--json', '-']);
    const { rows } = parseReport(stdout, 'units');
    expect(rows.slice(-4).map(({ method }) => method)).toEqual(names);
    expect(rows.at(-4)).toEqual({ method: 'bottleneck', units: 1, parameters: 2 * 4 * 768, unit: 'module' });
  });

  test('memory', async () => {
    const args = ['--methods', 'dtl,biased', '--batch', '2', ...own];
    expect(await methodsOf(args, 'memory')).toEqual(['dtl', 'biased', 'bottleneck', 'plain', 'required']);
  });

  test('throughput', async () => {
    const args = ['--methods', 'full', '--batch', '1', '--dtype', 'f32', '--samples', '1', ...own.slice(0, 2)];
    expect(await methodsOf(args, 'throughput')).toEqual(['full', 'bottleneck']);
  });

  test('train; a file may stand in the list itself', async () => {
    const args = ['--methods', `${at('bottleneck.ts')},linear`, '--batch', '1', '--dtype', 'f32', '--steps', '1'];
    expect(await methodsOf(args, 'train')).toEqual(['bottleneck', 'linear']);
  });
});

test('train, evaluate and predict with the method of a file', async () => {
  const common = ['--backbone', at('backbone.safetensors'), '--no-progress'];
  const run = ['train', ...common, '--data', at('train'), '--test', at('test'), '--out', at('run')];
  const settings = ['--method', at('bottleneck.ts'), '--option', 'width=2', '--epochs', '4', '--lr', '0.02'];
  const trained = await sidetune([...run, ...settings]);
  expect([trained.status, trained.stderr]).toEqual([0, expect.stringContaining('adapter.safetensors')]);

  const adapter = ['--adapter', at('run/adapter.safetensors'), ...common];
  const unknown = await sidetune(['evaluate', ...adapter, '--data', at('test')]);
  expect(unknown.status).toBe(1);
  expect(unknown.stderr).toContain("made with method 'bottleneck', which is not defined here");

  const method = ['--method', at('bottleneck.ts')];
  const evaluated = await sidetune(['evaluate', ...adapter, ...method, '--data', at('test')]);
  expect(evaluated.status).toBe(0);
  const [, accuracy] = /test accuracy[\s\S]*\| +([\d.]+ %) \| +\S+ \| \S+ \w+ \|\n$/.exec(trained.stdout)!;
  expect(evaluated.stdout).toContain(accuracy);
  const predicted = await sidetune(['predict', ...adapter, ...method, at('test/red/0.png')]);
  expect(predicted.status).toBe(0);
});

describe('refused', () => {
  const cases: [what: string, file: string, status: number, said: RegExp][] = [
    ['a missing file', 'missing.ts', 1, /missing\.ts' could not be read: no such file\n/],
    ['a folder', 'train', 2, /train' is no file, expected a file that calls petl\.define/],
    ['a file of another kind', 'notes.txt', 2, /ends in '\.txt', expected a file of one of these kinds: \.ts, \.mts/],
    [
      'a file that defines no method',
      'nothing.js',
      2,
      /nothing\.js' defines no method, expected a call of petl\.define/,
    ],
    ['a file that throws', 'throws.js', 2, /throws\.js' could not be loaded: not today\n/],
    ['a file with a mistake in its syntax', 'broken.ts', 2, /broken\.ts' could not be loaded: .*broken\.ts:1:6\n/],
    ['a file that needs what is not there', 'foreign.ts', 2, /foreign\.ts' could not be loaded: .*no-such-package/],
    ['a name that is taken', 'taken.ts', 2, /taken\.ts': petl\.define: a method 'dtl' exists already/],
    ["an error of the package's own class", 'own_class.ts', 1, /own_class\.ts': no table/],
  ];
  test.each(cases)('%s', async (_, file, expected, said) => {
    const { status, stdout, stderr } = await sidetune(['bench', 'units', '--method', at(file), '--no-progress']);
    expect([status, stdout]).toEqual([expected, '']);
    expect(stderr).toMatch(/^error: '.*\n$/);
    expect(stderr).toMatch(said);
  });

  test('training with several methods of one file', async () => {
    const needed = ['--data', at('train'), '--out', at('several'), '--backbone', at('backbone.safetensors')];
    const { status, stderr } = await sidetune(['train', ...needed, '--method', at('pair.mjs')]);
    expect(status).toBe(2);
    expect(stderr).toMatch(/--method: '.*pair\.mjs' defines plain, biased, expected a file with one method/);
  });

  test('training with a name that is neither method nor file', async () => {
    const needed = ['--data', at('train'), '--out', at('several'), '--backbone', at('backbone.safetensors')];
    const { status, stderr } = await sidetune(['train', ...needed, '--method', 'dtl3']);
    expect(status).toBe(2);
    expect(stderr).toMatch(/'dtl3' is invalid. Expected one of .*dtlPlus, .*or a file that defines a method/);
  });
});
