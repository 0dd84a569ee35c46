/** `npm run bench:peers`: the command line of this folder. */

import { Command } from 'commander';
import { bytes, digits } from '../../lib/cli/format';
import { listOf, oneOf, wholeNumber } from '../../lib/cli/options';
import { jsonOption, left, present, right } from '../../lib/cli/output';
import { runProgram } from '../../lib/cli/program';
import { counted, signal } from '../../lib/cli/session';
import { computeDtypes, vitPresets } from '../../lib/models';
import type { Column, Compute } from '../harness';
import { peerPools } from './contender';
import { type PeersOptions, type PeersRow, peers, trainingMethods } from './peers';
import { findPython, withoutTorch } from './torch';

const settings: Column<PeersRow>[] = [
  left('model', ({ model }) => model),
  left('task', ({ task, method }) => (method === null ? task : `${task} ${method}`)),
  left('head reads', ({ pool }) => pool),
  right('batch', ({ batch }) => String(batch)),
];

function figures(ours: readonly Compute[]): Column<PeersRow>[] {
  const memory = (value: number | null): string => (value === null ? '-' : bytes(value));
  return [
    left('software', ({ software, version }) => `${software} ${version}`),
    left('dtype', ({ dtype }) => dtype),
    right('images/s', ({ imagesPerSecond }) => digits(imagesPerSecond.median)),
    right('min', ({ imagesPerSecond }) => digits(imagesPerSecond.min)),
    right('max', ({ imagesPerSecond }) => digits(imagesPerSecond.max)),
    right('runs', ({ runs }) => String(runs)),
    ...ours.map((dtype) =>
      right<PeersRow>(`sidetune ${dtype} / it`, ({ sidetuneRatios }) => sidetuneRatios[dtype]?.toFixed(2) ?? '-'),
    ),
    right('difference', ({ difference }) => difference.toExponential(1)),
    right('cosine', ({ cosine }) => cosine?.toFixed(5) ?? '-'),
    right('tensors', ({ tensorPeakBytes }) => memory(tensorPeakBytes)),
    right('resident', ({ residentPeakBytes }) => memory(residentPeakBytes)),
  ];
}

function program(): Command {
  const presets = Object.keys(vitPresets);
  return new Command('bench:peers')
    .description(
      'Measures sidetune against onnxruntime and PyTorch on this CPU: same weights and images, samples in turn.',
    )
    .option(...jsonOption)
    .option('--model <name>', presets.join(', '), oneOf(presets), 'vit_base_patch16_224')
    .option(
      '--dtype <list>',
      `${computeDtypes.join(', ')}: ours, and PyTorch's where it has them`,
      listOf(oneOf(computeDtypes)),
      [...computeDtypes],
    )
    .option('--batch <list>', 'images in a batch of inference', listOf(wholeNumber(1)), [1, 4, 16])
    .option('--pool <where>', `where the head of inference reads: ${peerPools.join(', ')}`, oneOf(peerPools), 'cls')
    .option('--samples <n>', 'timed samples of each contender in inference', wholeNumber(1), 7)
    .option('--methods <list>', trainingMethods.join(', '), listOf(oneOf(trainingMethods)), ['dtl', 'dtlPlus', 'full'])
    .option('--train-batch <n>', 'images in a batch of training', wholeNumber(1), 32)
    .option('--steps <n>', 'timed training steps of each contender', wholeNumber(1), 3)
    .option('--skip-inference', 'training only')
    .option('--skip-training', 'inference only')
    .option('--python <path>', 'a Python with PyTorch (default: $SIDETUNE_PEER_PYTHON, or python3 where it has it)')
    .action(async ({ json, ...flags }: PeersOptions & { json?: string }) => {
      const python = await findPython(flags.python);
      if (!python) process.stderr.write(`${withoutTorch}\n`);
      const result = await counted((progress) =>
        peers({ ...flags, python, signal, onProgress: (done, total, what) => progress.update({ done, total, what }) }),
      );
      present('peers', result, { settings, figures: figures(flags.dtype) }, json);
    });
}

if (require.main === module) {
  void runProgram(program(), process.argv.slice(2)).then((status) => {
    process.exitCode = status;
  });
}
