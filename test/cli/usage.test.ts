/** Help, wrong use, and what every command has in common. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { methodNames } from '../../lib/petl';
import { compile, parseReport, ROOT, sidetune } from './sidetune';
import { tempFolder } from './tiny';

const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
const folder = tempFolder();

beforeAll(compile);
afterAll(folder.remove);

describe('help', () => {
  test('--version prints the version alone', async () => {
    expect(await sidetune(['--version'])).toEqual({ status: 0, stdout: `${version}\n`, stderr: '' });
  });

  test('--help lists the commands, bench --help the benches', async () => {
    const [program, bench] = await Promise.all([sidetune(['--help']), sidetune(['bench', '--help'])]);
    expect([program.status, bench.status]).toEqual([0, 0]);
    for (const name of ['train', 'compare', 'evaluate', 'predict', 'adapters', 'bench', 'info'])
      expect(program.stdout).toContain(`  ${name} `);
    for (const name of ['throughput', 'memory', 'train', 'kernels', 'units'])
      expect(bench.stdout).toContain(`  ${name} `);
  });

  test("a command's help shows its defaults and the options that all commands have", async () => {
    const { status, stdout } = await sidetune(['bench', 'memory', '--help']);
    expect(status).toBe(0);
    expect(stdout).toMatch(/--batch <list>.*default: \[32\]/);
    expect(stdout).toContain('--no-progress');
  });

  test('and which options must be given', async () => {
    const { stdout } = await sidetune(['compare', '--help']);
    const required = stdout.split(/\n(?= {2}-)/).filter((text) => text.includes('(required)'));
    expect(required.map((text) => text.trim().split(' ')[0])).toEqual(
      ['data', 'test', 'out', 'backbone', 'methods'].map((name) => `--${name}`),
    );
  });

  test('without a command, the help is an error', async () => {
    const { status, stdout, stderr } = await sidetune([]);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain('Usage: sidetune');
  });
});

describe('wrong use ends with 2 and says what is known', () => {
  const cases: [what: string, args: string[], said: RegExp[]][] = [
    [
      'an unknown command',
      ['trian'],
      [/unknown command 'trian'/, /known: train, compare, evaluate, predict, adapters, bench, info/],
    ],
    [
      'an unknown bench',
      ['bench', 'speed'],
      [/unknown command 'speed'/, /known: throughput, memory, train, kernels, units/],
    ],
    [
      'an unknown option',
      ['bench', 'units', '--modle', 'x'],
      [/unknown option '--modle'/, /known: --json, --model, .*--no-progress/],
    ],
    [
      'an unknown method',
      ['bench', 'memory', '--methods', 'dtl,lora2'],
      [new RegExp(`'dtl,lora2' is invalid. Expected one of ${methodNames().join(', ')}`)],
    ],
    [
      'an unknown model',
      ['bench', 'units', '--model', 'vit_9'],
      [/'vit_9' is invalid. Expected one of vit_tiny_patch16_224, .*vit_base/],
    ],
    ['an unknown dtype', ['bench', 'throughput', '--dtype', 'f16'], [/'f16' is invalid. Expected one of f32, bf16/]],
    [
      'a number out of range',
      ['bench', 'throughput', '--batch', '4,0'],
      [/'4,0' is invalid. Expected a whole number of at least 1/],
    ],
    [
      'a range that goes down',
      ['bench', 'memory', '--start-block', '1,7-2'],
      [/'1,7-2' is invalid. Expected ranges like 1-12, of at most 1000 numbers/],
    ],
    [
      'a range without an end',
      ['bench', 'kernels', '--batch', '4-'],
      [/'4-' is invalid. Expected a whole number of at least 1/],
    ],
    ['a batch of nothing', ['train', '--batch', '0'], [/'0' is invalid. Expected a whole number of at least 1/]],
    ['a number that is none', ['train', '--lr', 'fast'], [/'fast' is invalid. Expected a number of at least 0/]],
    [
      'a start block that the model does not have',
      ['bench', 'memory', '--methods', 'dtl', '--start-block', '13'],
      [/petl.dtl: 'startBlock' is 13, expected a whole number from 1 to 12/],
    ],
    [
      'a filter that leaves no kernel',
      ['bench', 'kernels', '--filter', 'nothing'],
      [/no kernel matches \/nothing\/i, known: layerNormForward/],
    ],
    ['a filter that is no expression', ['bench', 'kernels', '--filter', '('], [/Expected a regular expression/]],
    ['a missing option', ['train', '--data', 'x'], [/required option '--out <dir>' not specified/]],
    ['a missing argument', ['predict', '--adapter', 'a', '--backbone', 'b'], [/missing required argument 'image'/]],
    ['a setting without a value', ['train', '--option', 'rank'], [/'rank' is invalid. Expected 'name=value'/]],
    [
      'a setting in broken JSON',
      ['train', '--option', 'sizes={1'],
      [/Expected JSON behind '=', because it begins with {/],
    ],
  ];
  test.each(cases)('%s', async (_, args, said) => {
    const { status, stdout, stderr } = await sidetune(args);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^error: /m);
    for (const sentence of said) expect(stderr).toMatch(sentence);
    expect(stderr).not.toMatch(/^ {4}at /m);
  });
});

describe('errors', () => {
  test('a failure is one sentence and ends with 1', async () => {
    const { status, stdout, stderr } = await sidetune([
      'bench',
      'units',
      '--no-progress',
      '--json',
      join(folder.path, 'no/such/folder.json'),
    ]);
    expect(status).toBe(1);
    expect(stdout).toContain('| dtlPlus'); // the work is not lost
    expect(stderr).toMatch(/^error: '.*folder\.json' could not be written: no such folder\n$/);
  });

  test('--debug adds where it came from', async () => {
    const { status, stderr } = await sidetune([
      'bench',
      'memory',
      '--methods',
      'dtl',
      '--start-block',
      '13',
      '--debug',
      '--no-progress',
    ]);
    expect(status).toBe(2);
    expect(stderr).toMatch(/^error: petl\.dtl: .*\nArgumentError: petl\.dtl: .*\n {4}at /);
  });

  test('an addon that cannot be loaded is a sentence, too', async () => {
    const { status, stdout, stderr } = await sidetune(['info'], { env: { SIDETUNE_PREBUILD: folder.path } });
    expect([status, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(/^error: the native addon cannot be loaded: .*\n$/);
  });
});

describe('info', () => {
  test('says what runs here', async () => {
    const { status, stdout, stderr } = await sidetune(['info']);
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout.split('\n')[0]).toContain(`sidetune ${version}`);
    for (const fact of ['processor', 'SIMD', 'GEMM', 'threads', 'memory'])
      expect(stdout).toMatch(new RegExp(`\\| ${fact} +\\| \\S`));
    expect(stdout).toMatch(/cuda(:0)? +\| (no device|can be opened)/);
  });

  test('--json - prints the same as JSON and nothing else', async () => {
    const { status, stdout } = await sidetune(['info', '--json', '-']);
    expect(status).toBe(0);
    expect(parseReport(stdout, 'info').rows).toContainEqual({ fact: 'sidetune', value: version });
  });
});
