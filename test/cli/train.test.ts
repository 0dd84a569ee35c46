/** `sidetune train`, `evaluate` and `predict` on a backbone and images made here. */
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compile, type Outcome, parseReport, type RunOptions, sidetune } from './sidetune';
import { CLASSES, tempFolder, writeBackbone, writeImages } from './tiny';

const folder = tempFolder();
const at = (name: string): string => join(folder.path, name);
const backbone = at('backbone.safetensors');

/** A training run of a second or two. */
function train(out: string, args: readonly string[] = [], options?: RunOptions): Promise<Outcome> {
  const model = ['--backbone', backbone, '--method', 'dtlPlus', '--option', 'startBlock=2', '--lr', '0.02'];
  return sidetune(
    ['train', '--data', at('train'), '--out', at(out), ...model, '--batch', '5', '--epochs', '12', ...args],
    options,
  );
}

beforeAll(async () => {
  await compile();
  await writeBackbone(backbone);
  await writeImages(at('train'));
  await writeImages(at('test'), 2);
});
afterAll(folder.remove);

describe('a run', () => {
  let outcome: Outcome;
  const adapter = ['--adapter', at('run/adapter.safetensors'), '--backbone', backbone];

  beforeAll(async () => {
    outcome = await train('run', ['--test', at('test'), '--json', at('run.json')]);
  });

  test('learns, and prints a row for each epoch', () => {
    expect(outcome.stderr).toContain('adapter.safetensors: ');
    expect(outcome.status).toBe(0);
    const { rows } = parseReport(readFileSync(at('run.json'), 'utf8'), 'training');
    expect(rows).toHaveLength(12);
    expect(rows[0]).toMatchObject({
      epoch: 1,
      loss: expect.any(Number),
      accuracy: expect.any(Number),
      lr: expect.any(Number),
    });
    expect(rows[11]!.loss as number).toBeLessThan(rows[0]!.loss as number);
    expect(rows[11]).toHaveProperty('test.accuracy');
    expect(outcome.stdout.trimEnd().split('\n')).toHaveLength(2 + 2 + 12); // facts and a blank line, head and rule, epochs
  });

  test('shows a plain line for each epoch where there is no terminal', () => {
    expect(outcome.stderr).toMatch(
      /^epoch 1\/12 {2}loss \S+ {2}acc \S+ % {2}\S+ img\/s {2}\S+ [KMG]iB {2}\d+:\d\d left$/m,
    );
    expect(outcome.stderr).toMatch(/^epoch 12\/12 .* test \S+ % /m);
  });

  test('leaves an adapter and a checkpoint, nothing half-written', () => {
    expect(readdirSync(at('run')).sort()).toEqual(['adapter.safetensors', 'checkpoint.safetensors']);
  });

  test('is not written over', async () => {
    const { status, stderr } = await train('run');
    expect(status).toBe(2);
    expect(stderr).toMatch(/holds a run already; expected --resume/);
  });

  test('goes the same way on another device', async () => {
    const device = ['--device', 'cuda-emulated'];
    const { status, stdout } = await train('elsewhere', [...device, '--test', at('test'), '--json', '-']);
    expect(status).toBe(0);
    const here = parseReport(readFileSync(at('run.json'), 'utf8'), 'training').rows;
    const report = JSON.parse(stdout);
    expect(report.host.device).toBe('cuda-emulated');
    for (const [i, row] of report.rows.entries()) {
      expect(row.loss).toBeCloseTo(here[i]!.loss as number, 3);
      expect(row.peakBytes).toBeGreaterThan(0);
    }
    const evaluated = await sidetune(['evaluate', ...adapter, ...device, '--data', at('test'), '--json', '-']);
    expect(JSON.parse(evaluated.stdout).rows[0].accuracy).toBe((here[11]!.test as { accuracy: number }).accuracy);
  });

  test('on a device that there is not is refused by name', async () => {
    const { status, stderr } = await train('tpu', ['--device', 'tpu']);
    expect(status).toBe(1);
    expect(stderr).toContain("no device 'tpu'; devices are 'cpu', 'cuda'");
  });

  test('evaluate finds the accuracy that training reported', async () => {
    const { status, stdout } = await sidetune(['evaluate', ...adapter, '--data', at('test'), '--json', '-']);
    expect(status).toBe(0);
    const [row] = parseReport(stdout, 'evaluate').rows;
    const { rows } = parseReport(readFileSync(at('run.json'), 'utf8'), 'training');
    expect(row).toMatchObject({
      data: at('test'),
      images: 6,
      accuracy: (rows[11]!.test as { accuracy: number }).accuracy,
    });
  });

  test('predict names classes, most likely first, in batches as in one', async () => {
    const images = CLASSES.map((name) => at(`test/${name}/0.png`));
    const table = await sidetune(['predict', ...adapter, '--top', '2', ...images]);
    expect(table.status).toBe(0);
    expect(table.stdout).toMatch(new RegExp(`\\| ${images[0]} +\\| (${CLASSES.join('|')}) [\\d.]+ % +\\|`));

    const [whole, split] = await Promise.all(
      ['3', '2'].map(async (batch) => {
        const { stdout } = await sidetune(['predict', ...adapter, '--json', '-', '--batch', batch, ...images]);
        return parseReport(stdout, 'predict').rows as {
          path: string;
          classes: { label: string; probability: number }[];
        }[];
      }),
    );
    expect(split!.map(({ path, classes }) => [path, classes[0]!.label])).toEqual(
      whole!.map(({ path, classes }) => [path, classes[0]!.label]),
    );
    for (const { classes } of whole!) {
      const probabilities = classes.map(({ probability }) => probability);
      expect(probabilities.reduce((sum, value) => sum + value)).toBeCloseTo(1, 5);
      expect(probabilities).toEqual([...probabilities].sort((a, b) => b - a));
      expect(classes.map(({ label }) => label).sort()).toEqual(CLASSES);
    }
  });

  test('an adapter of another backbone is refused', async () => {
    await writeBackbone(at('other.safetensors'), 2);
    const args = [
      '--adapter',
      at('run/adapter.safetensors'),
      '--backbone',
      at('other.safetensors'),
      at('test/red/0.png'),
    ];
    const { status, stderr } = await sidetune(['predict', ...args]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^error: .*made for backbone/m);
  });
});

test('--trace writes the third step of the run, or the last of a shorter one', async () => {
  const labelOf = async (out: string, args: string[]): Promise<unknown> => {
    const outcome = await train(out, [...args, '--trace', at(`${out}.json`)]);
    expect(outcome.status).toBe(0);
    expect(outcome.stdout).toMatch(/^traced epoch \d+ step \d+$/m);
    expect(outcome.stdout).toMatch(/\| attentionBackward +\|/);
    const { otherData, traceEvents } = JSON.parse(readFileSync(at(`${out}.json`), 'utf8'));
    expect(
      traceEvents.filter(({ name, ph }: { name: string; ph: string }) => name === 'adamwUpdate' && ph === 'X'),
    ).toHaveLength(4);
    return otherData.label;
  };
  expect(await labelOf('traced', ['--epochs', '1'])).toBe('epoch 1 step 3');
  expect(await labelOf('short', ['--epochs', '1', '--batch', '6'])).toBe('epoch 1 step 2');
});

test('a run that is over already has nothing to trace', async () => {
  const args = ['--epochs', '1', '--trace', at('over.json')];
  await train('over', args);
  const { status, stderr } = await train('over', [...args.slice(0, 3), at('none.json'), '--resume']);
  expect(status).toBe(0);
  expect(stderr).toMatch(/note: nothing was traced, '.*none\.json' is not written/);
  expect(existsSync(at('none.json'))).toBe(false);
});

test('Ctrl-C saves and ends with 130; --resume gets where the run would have got', async () => {
  const losses = (text: string): unknown[] =>
    parseReport(text, 'training').rows.map(({ epoch, loss }) => [epoch, loss]);
  const args = ['--epochs', '20', '--json', '-'];
  const whole = await train('whole', args);
  let sent = false;
  const first = await train('stopped', args, {
    onStderr(text, child) {
      if (sent || !text.includes('epoch 2/20')) return;
      sent = true;
      child.kill('SIGINT');
    },
  });
  expect(first.status).toBe(130);
  expect(first.stderr).toMatch(/stopped after \d+ of 20 epochs; --resume goes on from .*checkpoint\.safetensors/);
  expect(existsSync(at('stopped/adapter.safetensors'))).toBe(false);

  const second = await train('stopped', [...args, '--resume']);
  expect(second.status).toBe(0);
  expect([...losses(first.stdout), ...losses(second.stdout)]).toEqual(losses(whole.stdout));
  expect(readFileSync(at('stopped/adapter.safetensors'))).toEqual(readFileSync(at('whole/adapter.safetensors')));
});

describe('what cannot be trained on', () => {
  const cases: [what: string, status: number, args: () => string[], said: RegExp][] = [
    ['no such folder', 1, () => ['--data', at('nowhere')], /nowhere' could not be read: no such file/],
    [
      'a folder without classes',
      2,
      () => ['--data', at('train/red')],
      /holds no folders, expected one folder of images per class/,
    ],
    ['test images without a class', 1, () => ['--test', at('nowhere')], /nowhere' could not be read/],
    ['an unknown backbone', 2, () => ['--backbone', 'vit_9'], /neither a file nor one of vit_tiny_patch16_224/],
    ['a backbone that is cut off', 1, () => ['--backbone', at('cut.safetensors')], /cut\.safetensors/],
    ['a backbone that is none', 1, () => ['--backbone', at('text.safetensors')], /text\.safetensors/],
    ['an unknown option of the method', 2, () => ['--option', 'rnak=4'], /unknown option 'rnak', known: .*rank/],
    ['an option out of range', 2, () => ['--option', 'rank=0'], /'rank' is 0, expected a whole number from 1/],
    ['an image that is damaged', 1, () => ['--data', at('damaged')], /damaged\/red\/0\.png/],
  ];

  beforeAll(async () => {
    await writeBackbone(at('cut.safetensors'));
    truncateSync(at('cut.safetensors'), 4000);
    writeFileSync(at('text.safetensors'), 'no weights in here');
    await writeImages(at('damaged'), 2);
    truncateSync(at('damaged/red/0.png'), 60);
  });

  test.each(cases)('%s', async (_, expected, args, said) => {
    const { status, stdout, stderr } = await train('refused', args());
    expect([status, stdout]).toEqual([expected, '']);
    expect(stderr).toMatch(/^error: /m);
    expect(stderr).toMatch(said);
    expect(existsSync(at('refused/checkpoint.safetensors'))).toBe(false);
  });
});

test('adapters lists those of a folder', async () => {
  const { status, stdout } = await sidetune(['adapters', at('run')]);
  expect(status).toBe(0);
  expect(stdout).toMatch(/\| file +\| method +\| options +\| backbone +\| fingerprint +\| classes \| labels +\|/);
  expect(stdout).toMatch(/\| adapter\.safetensors \| dtlPlus \| .*startBlock=2.* \| +3 \| blue, green, red \|/);
  expect(stdout).not.toContain('checkpoint');

  const json = await sidetune(['adapters', at('run'), '--json', '-']);
  const [row] = parseReport(json.stdout, 'adapters').rows;
  expect(row).toMatchObject({ method: 'dtlPlus', classes: 3, labels: CLASSES, backbone: { name: expect.any(String) } });

  const empty = await sidetune(['adapters', at('train')]);
  expect([empty.status, empty.stderr]).toEqual([0, expect.stringMatching(/^no adapter in .*train: none of its files/)]);

  const none = await sidetune(['adapters', at('nowhere')]);
  expect([none.status, none.stdout]).toEqual([1, '']);
  expect(none.stderr).toMatch(/^error: '.*nowhere' could not be read: no such file\n$/);
});
