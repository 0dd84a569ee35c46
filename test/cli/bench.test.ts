/** `sidetune bench …`: tables, JSON, progress, Ctrl-C. What the figures are is tested in test/bench. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { compile, parseReport, sidetune } from './sidetune';
import { tempFolder } from './tiny';

const tiny = ['--model', 'vit_tiny_patch16_224'];
const folder = tempFolder();

beforeAll(compile);
afterAll(folder.remove);

test('throughput: a table under a line of machine facts, JSON in a file, progress on standard error', async () => {
  const file = join(folder.path, 'throughput.json');
  const args = ['--methods', 'full,dtl', '--batch', '1', '--dtype', 'f32', '--samples', '2', '--json', file];
  const { status, stdout, stderr } = await sidetune(['bench', 'throughput', ...tiny, ...args]);
  expect(status).toBe(0);
  const [facts, settings, blank, header, rule, ...lines] = stdout.trimEnd().split('\n');
  expect(facts).toMatch(/thread.*sidetune/);
  expect(settings).toBe('model vit_tiny_patch16_224, dtype f32, batch 1');
  expect(blank).toBe('');
  expect(header).toMatch(/^\| method +\| +images\/s \|.*\| relative to full \|/);
  expect(rule).toMatch(/^\|[-:| ]+\|$/);
  expect(lines).toHaveLength(2);
  expect(stderr).toContain('f32 batch 1\n');

  const { rows } = parseReport(readFileSync(file, 'utf8'), 'throughput');
  const spread = { min: expect.any(Number), median: expect.any(Number), max: expect.any(Number) };
  const common = {
    model: tiny[1],
    batch: 1,
    dtype: 'f32',
    device: 'cpu',
    imagesPerSecond: spread,
    cosineToF32: null,
    runs: 2,
  };
  expect(rows).toEqual([
    { ...common, method: 'full', relativeToFull: 1 },
    { ...common, method: 'dtl', relativeToFull: expect.any(Number) },
  ]);
});

test('memory: every combination of the lists is a row; --json - leaves standard output to JSON', async () => {
  const args = [
    '--methods',
    'dtl,full',
    '--batch',
    '2',
    '--start-block',
    '1,7',
    '--retain',
    'activations,block-inputs',
    '--prefix',
    'keep',
  ];
  const { status, stdout, stderr } = await sidetune([
    'bench',
    'memory',
    ...tiny,
    ...args,
    '--json',
    '-',
    '--no-progress',
  ]);
  expect([status, stderr]).toEqual([0, '']);
  const { rows } = parseReport(stdout, 'memory');
  expect(rows.map(({ method, startBlock, retain }) => `${method} ${startBlock} ${retain}`)).toEqual([
    'dtl 1 activations',
    'dtl 1 block-inputs',
    'dtl 7 activations',
    'dtl 7 block-inputs',
    'full null activations',
    'full null block-inputs',
  ]);
  const kinds = Object.fromEntries(
    ['weights', 'side', 'activations', 'gradients', 'optimizer', 'workspace', 'data'].map((kind) => [
      kind,
      expect.any(Number),
    ]),
  );
  const fixed = { model: tiny[1], batch: 2, dtype: 'bf16', device: 'cpu', prefix: 'keep' };
  for (const row of rows) {
    expect(row).toEqual({
      ...row,
      ...fixed,
      peakBytes: expect.any(Number),
      bytesByKind: kinds,
      parameters: expect.any(Number),
    });
  }
});

test('train: seconds and memory of real steps', async () => {
  const args = ['--methods', 'dtlPlus', '--batch', '1', '--dtype', 'f32', '--steps', '1', '--json', '-'];
  const { status, stdout } = await sidetune(['bench', 'train', ...tiny, ...args]);
  expect(status).toBe(0);
  const [row] = parseReport(stdout, 'train').rows;
  expect(row).toMatchObject({
    method: 'dtlPlus',
    secondsPerStep: expect.any(Number),
    peakBytes: expect.any(Number),
    residentBytes: expect.any(Number),
    runs: 1,
  });
});

test('units: Table 1', async () => {
  const { status, stdout } = await sidetune(['bench', 'units']);
  expect(status).toBe(0);
  expect(stdout).toMatch(/\| dtlPlus +\| +13 \| +43,776 \|/);
});

test('units, memory and throughput: --paper puts the figures of the paper beside ours', async () => {
  const units = await sidetune(['bench', 'units', '--paper', '--methods', 'ssf,adapter']);
  expect(units.status).toBe(0);
  expect(units.stdout).toMatch(
    /\| method +\| units \| parameters \| paper: units \| paper: parameters \| a unit is a +\|/,
  );
  expect(units.stdout).toMatch(/\| ssf +\| +148 \| +205,824 \| +148 \| +0\.21 M \| scale or shift \|/);
  expect(units.stdout).toMatch(/\| adapter +\| +24 \| +313,536 \| +- \| +- \| module +\|/);

  const args = ['--methods', 'linear', '--batch', '8,32', '--paper', '--json', '-'];
  const { rows } = parseReport((await sidetune(['bench', 'memory', ...args])).stdout, 'memory');
  expect(rows.map(({ paper }) => paper)).toEqual([{ millions: 0 }, { millions: 0, gigabytes: 0.6 }]);

  const quick = ['--methods', 'full', '--batch', '1', '--dtype', 'f32', '--samples', '1', '--no-progress', '--paper'];
  const { stdout } = await sidetune(['bench', 'throughput', ...tiny, ...quick]);
  expect(stdout).toMatch(/\| paper: images\/s \| paper: relative to full \|\n.*\n.* - \| +- \|\n$/);
});

test('--methods all: every method of the table, in its order', async () => {
  const { status, stdout } = await sidetune(['bench', 'units', ...tiny, '--methods', 'dtl,all', '--json', '-']);
  expect(status).toBe(0);
  const methods = parseReport(stdout, 'units').rows.map(({ method }) => method);
  // What was named comes first; the others from the least memory in PyTorch to the most.
  const others = ['linear', 'dtlPlus', 'lst', 'adaptFormer', 'adapter', 'bitfit', 'lora', 'dtlPlusStar', 'noah'];
  expect(methods).toEqual(['dtl', ...others, 'factTt', 'factTk', 'vptShallow', 'vptDeep', 'full', 'ssf']);
});

test('kernels: rates beside the roof', async () => {
  const file = join(folder.path, 'kernels.json');
  const args = ['--filter', '^(layerNormForward|linearPack)', '--batch', '1-2', '--dtype', 'f32', '--json', file];
  const { status, stdout, stderr } = await sidetune(['bench', 'kernels', ...tiny, ...args]);
  expect(status).toBe(0);
  expect(stdout).toContain('shape N=197 d=192, dtype f32\n');
  expect(stdout).toMatch(/\| batch \| kernel +\| +ms \| +bytes \| +FLOPs \| +rate \| +of roof \| roof \|/);
  expect(stdout).toMatch(/\| +2 \| layerNormForward +\|.* KiB \| +[\d.]+ k \|.*(GB\/s|GFLOP\/s) \| +[\d.]+ % \|/);
  expect(stdout).toMatch(/\| +- \| linearPack +\|/);
  expect(stderr).toContain("the machine's roofs");

  const { host, rows } = parseReport(readFileSync(file, 'utf8'), 'kernels');
  expect(rows.map(({ kernel, batch }) => [kernel, batch])).toEqual([
    ['layerNormForward', 1],
    ['linearPack', null],
    ['layerNormForward', 2],
  ]);
  const number = expect.any(Number);
  expect(rows[0]).toMatchObject({ dtype: 'f32', direction: 'forward', shape: 'N=197 d=192' });
  expect(rows[0]).toMatchObject({ ms: number, bytes: number, flops: number, fractionOfPeak: number });
  expect(host.roof).toMatchObject({ gemmGflops: { f32: number, bf16: number } });
  expect((host.roof as { copy: object[] }).copy).toContainEqual({ bytes: 2 ** 20, gbps: number });
});

test('memory: --svg draws what the table says', async () => {
  const file = join(folder.path, 'memory.svg');
  const args = ['--methods', 'dtl', '--batch', '2', '--start-block', '1-4,12', '--svg', file, '--no-progress'];
  const { status, stdout, stderr } = await sidetune(['bench', 'memory', ...tiny, ...args]);
  expect([status, stderr]).toEqual([0, '']);
  const peaks = [...stdout.matchAll(/^\| +(\d+) \| +([\d.]+ \w+) \|/gm)].map(
    ([, start, peak]) => `M ${start}: ${peak}`,
  );
  expect(peaks).toHaveLength(5);
  const svg = readFileSync(file, 'utf8');
  for (const peak of peaks) expect(svg).toContain(`<title>dtl, ${peak}</title>`);
});

interface TraceFile {
  traceEvents: { name: string; ph: string; tid: number; args?: { name?: string } }[];
  otherData: { label?: string; droppedCalls: number };
}

/** Names of the slices on a track of a trace. */
function slices({ traceEvents }: TraceFile, track: string): string[] {
  const { tid } = traceEvents.find(({ name, args }) => name === 'thread_name' && args!.name === track)!;
  return traceEvents.filter((event) => event.ph === 'X' && event.tid === tid).map(({ name }) => name);
}

test('throughput: --trace writes a pass of each row, one after the other, and prints where the time went', async () => {
  const file = join(folder.path, 'passes.json');
  const args = ['--methods', 'full,dtl', '--batch', '1', '--dtype', 'f32', '--samples', '1', '--trace', file];
  const { status, stdout, stderr } = await sidetune(['bench', 'throughput', ...tiny, ...args, '--no-progress']);
  expect([status, stderr]).toEqual([0, '']);
  const trace = JSON.parse(readFileSync(file, 'utf8')) as TraceFile;
  const kernels = slices(trace, 'kernels');
  expect(slices(trace, 'JavaScript')).toEqual(kernels);
  expect(kernels.filter((name) => name === 'attentionForward')).toHaveLength(2 * 12);
  const parts = slices(trace, 'model').filter((name) => !name.startsWith('block'));
  expect(parts).toEqual(['full f32 batch 1', 'embed', 'head', 'dtl f32 batch 1', 'embed', 'head']);

  expect(stdout).toMatch(/\| traced +\| kernel +\| calls \| +ms \| of the time \| GFLOP\/s \| +GB\/s \|/);
  expect(stdout).toMatch(/\| dtl f32 batch 1 +\| attentionForward +\| +12 \|/);
  const shares = [...stdout.matchAll(/^\| full f32 batch 1 +\| ([\w() ]+?) +\|.* ([\d.]+) % \|/gm)];
  expect(shares.map(([, name]) => name).slice(-3)).toEqual(['(between kernels)', '(waiting for JavaScript)', 'all']);
  const sum = shares.filter(([, name]) => name !== 'all').reduce((total, [, , share]) => total + Number(share), 0);
  expect(sum).toBeGreaterThan(99);
  expect(sum).toBeLessThan(101);
});

test('train: --trace writes a step; --json - keeps standard output to itself', async () => {
  const file = join(folder.path, 'step.json');
  const args = [
    '--methods',
    'linear',
    '--batch',
    '1',
    '--dtype',
    'f32',
    '--steps',
    '1',
    '--trace',
    file,
    '--json',
    '-',
  ];
  const { status, stdout } = await sidetune(['bench', 'train', ...tiny, ...args]);
  expect(status).toBe(0);
  expect(parseReport(stdout, 'train').rows).toMatchObject([{ runs: 1 }]);
  const trace = JSON.parse(readFileSync(file, 'utf8')) as TraceFile;
  expect(trace.otherData).toMatchObject({ label: 'linear f32 batch 1', droppedCalls: 0 });
  expect(slices(trace, 'model')).toEqual(expect.arrayContaining(['forward', 'block 12', 'backward', 'update']));
});

test('--trace to where no file can be is an error after the table', async () => {
  const file = join(folder.path, 'nowhere', 'trace.json');
  const args = ['--methods', 'linear', '--batch', '1', '--dtype', 'f32', '--steps', '1', '--trace', file];
  const { status, stdout, stderr } = await sidetune(['bench', 'train', ...tiny, ...args]);
  expect(status).toBe(1);
  expect(stdout).toContain('| s/step |');
  expect(stderr).toMatch(/error: .*nowhere.* could not be written: no such folder/);
});

const quick: [name: string, args: string[]][] = [
  ['throughput', ['--methods', 'full', '--batch', '1', '--dtype', 'f32', '--samples', '1']],
  ['memory', ['--methods', 'linear', '--batch', '1']],
  ['train', ['--methods', 'linear', '--batch', '1', '--dtype', 'f32', '--steps', '1']],
  ['kernels', ['--filter', 'fill', '--batch', '1', '--dtype', 'f32']],
  ['units', []],
];
test.each(quick)('%s: --json - prints JSON alone, --no-progress nothing else', async (name, args) => {
  const { status, stdout, stderr } = await sidetune(['bench', name, ...tiny, ...args, '--json', '-', '--no-progress']);
  expect([status, stderr]).toEqual([0, '']);
  expect(parseReport(stdout, name).rows.length).toBeGreaterThan(0);
});

test('Ctrl-C gives the rows that are there and ends with 130', async () => {
  const args = ['--methods', 'full,dtl', '--batch', '1', '--dtype', 'f32', '--samples', '100000', '--json', '-'];
  let sent = false;
  const { status, stdout, stderr } = await sidetune(['bench', 'throughput', ...tiny, ...args], {
    onStderr(text, child) {
      const done = Number(/(\d+)\/\d+ {2}f32 batch 1\n$/.exec(text)?.[1]);
      if (sent || !(done >= 4)) return; // until each has been timed
      sent = true;
      child.kill('SIGINT');
    },
  });
  expect(status).toBe(130);
  expect(stderr).toContain('stopping');
  const { rows } = parseReport(stdout, 'throughput');
  expect(rows.map(({ method }) => method)).toEqual(['full', 'dtl']);
  expect(rows[0]!.runs).toBeGreaterThan(0);
  expect(rows[0]!.runs).toBeLessThan(100000);
});
