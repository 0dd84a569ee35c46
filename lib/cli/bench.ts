/** `sidetune bench`: the benches of bench/ as commands. Options bear the names of the functions' own, so they are passed on as they are. */

import type { Command } from 'commander';
import * as bench from '../../bench';
import { computeDtypes, vitPresets } from '../models';
import { methodNames } from '../petl';
import type { Trace } from '../trace';
import { bytes, count, digits, metric, percent } from './format';
import { loadMethodFiles, methodFileOption, methodsOf } from './method_file';
import { deviceOption, listOf, oneOf, regularExpression, wholeNumber, wholeNumbers } from './options';
import { jsonOption, type Layout, left, present, right, writeText } from './output';
import { counted, signal } from './session';
import { presentTraces, traceOption } from './trace';

interface Json {
  json?: string;
}
type Flags<Options> = Json & MethodFiles & bench.Place & Omit<Options, keyof bench.Control | keyof bench.Tracing>;

interface MethodFiles {
  method?: string[];
}

export function addBenchCommands(program: Command): void {
  const group = program.command('bench').description('measure speed and memory on this machine');
  addThroughput(group);
  addMemory(group);
  addTrain(group);
  addKernels(group);
  addUnits(group);
}

interface TraceFlag {
  trace?: string;
}

/** Runs a bench as {@link run} does; with `--trace` it is recorded, too. */
async function runTraced<Row extends object>(
  name: string,
  flags: Json & TraceFlag,
  layout: Layout<Row>,
  body: (control: bench.Control & bench.Tracing) => Promise<bench.Result<Row>>,
): Promise<void> {
  const { json, trace: file } = flags;
  if (file === undefined) return run(name, { json }, layout, body);
  const traces: Trace[] = [];
  const onTrace = (trace: Trace): unknown => traces.push(trace);
  await run(name, { json }, layout, (control) => body({ ...control, onTrace }));
  await presentTraces(file, traces, json);
}

/** Runs a bench with live progress and prints what it returns: all of it, or what there was at Ctrl-C. Afterwards `also` has the rows. */
async function run<Row extends object>(
  name: string,
  { json }: Json,
  layout: Layout<Row>,
  body: (control: bench.Control) => Promise<bench.Result<Row>>,
  also?: (rows: Row[]) => void,
): Promise<void> {
  const result = await counted((progress) =>
    body({ signal, onProgress: (done, total, what) => progress.update({ done, total, what }) }),
  );
  present(name, result, layout, json);
  also?.(result.rows);
}

function addBench(group: Command, name: string, description: string): Command {
  const presets = Object.keys(vitPresets);
  return group
    .command(name)
    .description(description)
    .option(...jsonOption)
    .option('--model <name>', presets.join(', '), oneOf(presets), 'vit_base_patch16_224');
}

function addDevice(command: Command): Command {
  return command.option(...deviceOption);
}

function addMethods(command: Command, methods: string[]): Command {
  return command
    .option('--methods <list>', `${methodNames().join(', ')}, or all`, listOf(String), methods)
    .option(...methodFileOption);
}

/** What `--methods` names, and behind it what the files of `--method` define. */
async function chosenMethods(command: Command): Promise<string[]> {
  const { methods, method } = command.opts<MethodFiles & { methods: string[] }>();
  const own = await loadMethodFiles(method);
  const named = methods.flatMap((name) => (name === 'all' ? bench.tableMethods : [name]));
  return [...new Set([...(await methodsOf(command, '--methods', named)), ...own])];
}

interface PaperFlag {
  paper?: boolean;
}
type Beside<Row> = Row & { paper?: bench.PaperFigures };

const paperOption = [
  '--paper',
  "the DTL paper's figures beside ours, where it has some: ViT-B/16 with PyTorch on an RTX 3090 in mixed precision",
] as const;

/** With `--paper` each row gets the paper's figures. */
function besidePaper<Row>(
  { paper }: PaperFlag,
  { host, rows }: bench.Result<Row>,
  figuresOf: (row: Row) => bench.PaperFigures,
): bench.Result<Beside<Row>> {
  return { host, rows: rows.map((row) => ({ ...row, ...(paper ? { paper: figuresOf(row) } : {}) })) };
}

/** A column of it; '-' for what is not in the paper. */
function paperColumn(
  title: string,
  name: keyof bench.PaperFigures,
  show: (value: number) => string,
): bench.Column<{ paper?: bench.PaperFigures }> {
  return right(`paper: ${title}`, ({ paper }) => (paper?.[name] === undefined ? '-' : show(paper[name])));
}

const paperParameters = paperColumn('parameters', 'millions', (value) => `${value} M`);

function addDtypes(command: Command, dtypes: bench.Compute[]): Command {
  return command.option('--dtype <list>', computeDtypes.join(', '), listOf(oneOf(computeDtypes)), dtypes);
}

function addBatches(command: Command, batches: number[]): Command {
  return command.option('--batch <list>', 'images in a batch, such as 1,4 or 1-8', wholeNumbers(1), batches);
}

function addThroughput(group: Command): void {
  const settings: bench.Column<bench.ThroughputRow>[] = [
    left('model', ({ model }) => model),
    left('dtype', ({ dtype }) => dtype),
    right('batch', ({ batch }) => String(batch)),
    left('method', ({ method }) => method),
  ];
  const figures: bench.Column<bench.ThroughputRow>[] = [
    right('images/s', ({ imagesPerSecond }) => digits(imagesPerSecond.median)),
    right('min', ({ imagesPerSecond }) => digits(imagesPerSecond.min)),
    right('max', ({ imagesPerSecond }) => digits(imagesPerSecond.max)),
    right('relative to full', ({ relativeToFull }) => (relativeToFull === null ? '-' : relativeToFull.toFixed(3))),
    right('cosine to f32', ({ cosineToF32 }) => (cosineToF32 === null ? '-' : cosineToF32.toFixed(5))),
    right('runs', ({ runs }) => String(runs)),
  ];
  const paperFigures = [
    paperColumn('images/s', 'imagesPerSecond', String),
    paperColumn('relative to full', 'relativeToFull', (value) => value.toFixed(3)),
  ];
  const command = addBench(
    group,
    'throughput',
    'inference: images per second, measured in turn; full is the plain backbone and a head',
  );
  addDevice(addMethods(command, ['full', 'dtl', 'dtlPlus']));
  addBatches(addDtypes(command, ['f32', 'bf16']), [1, 4, 16])
    .option('--samples <n>', 'timed samples of each method', wholeNumber(1), 7)
    .option(...paperOption)
    .option(...traceOption('one more pass of each row'))
    .action(async (flags: Flags<bench.ThroughputOptions> & TraceFlag & PaperFlag) => {
      const methods = await chosenMethods(command);
      const layout: Layout<Beside<bench.ThroughputRow>> = {
        settings,
        figures: [...figures, ...(flags.paper ? paperFigures : [])],
      };
      await runTraced('throughput', flags, layout, async (control) =>
        besidePaper(flags, await bench.throughput({ ...flags, methods, ...control }), bench.paperThroughput),
      );
    });
}

/** Options of `memory` and `train`: every combination of the lists is a row. */
function addSetups(command: Command, methods: string[], batch: number): Command {
  addDevice(addMethods(command, methods));
  return addBatches(addDtypes(command, ['bf16']), [batch])
    .option('--start-block <list>', 'M of DTL and DTL+, such as 1,7 or 1-12 (default: 7)', wholeNumbers(1))
    .option('--retain <list>', 'activations, block-inputs', listOf(oneOf(['activations', 'block-inputs'])), [
      'activations',
    ])
    .option('--prefix <list>', 'keep, recompute', listOf(oneOf(['keep', 'recompute'])), ['keep']);
}

function setupColumns(): bench.Column<bench.MemoryRow>[] {
  return [
    left('model', ({ model }) => model),
    left('dtype', ({ dtype }) => dtype),
    right('batch', ({ batch }) => String(batch)),
    left('method', ({ method }) => method),
    right('M', ({ startBlock }) => (startBlock === null ? '-' : String(startBlock))),
    left('retain', ({ retain }) => retain),
    left('prefix', ({ prefix }) => prefix),
  ];
}

function memoryColumns(): bench.Column<bench.MemoryRow>[] {
  return [
    right('peak', ({ peakBytes }) => bytes(peakBytes)),
    ...bench.kinds.map((kind) => right<bench.MemoryRow>(kind, ({ bytesByKind }) => bytes(bytesByKind[kind]))),
    right('parameters', ({ parameters }) => count(parameters)),
  ];
}

function addMemory(group: Command): void {
  const paperFigures = [paperColumn('peak', 'gigabytes', (value) => `${value} GB`), paperParameters];
  const command = addBench(group, 'memory', 'training: peak bytes of one step by kind, counted without computing it');
  addSetups(command, ['linear', 'dtl', 'dtlPlus', 'dtlPlusStar', 'full'], 32)
    .option('--svg <file>', 'draw the peaks: against M if there are several, else by kind')
    .option(...paperOption)
    .action(async ({ svg, ...flags }: Flags<bench.SetupLists> & PaperFlag & { svg?: string }) => {
      const methods = await chosenMethods(command);
      const layout: Layout<Beside<bench.MemoryRow>> = {
        settings: setupColumns(),
        figures: [...memoryColumns(), ...(flags.paper ? paperFigures : [])],
      };
      await run(
        'memory',
        flags,
        layout,
        async (control) => besidePaper(flags, await bench.memory({ ...flags, methods, ...control }), bench.paperMemory),
        (rows) => svg !== undefined && writeText(svg, bench.memoryPlot(rows)),
      );
    });
}

function addTrain(group: Command): void {
  const figures: bench.Column<bench.TrainRow>[] = [
    right('s/step', ({ secondsPerStep }) => digits(secondsPerStep)),
    right('images/s', ({ imagesPerSecond }) => digits(imagesPerSecond.median)),
    ...memoryColumns(),
    right('resident', ({ residentBytes }) => bytes(residentBytes)),
  ];
  const command = addBench(group, 'train', 'training: seconds of real steps, and their memory');
  addSetups(command, ['linear', 'dtl', 'dtlPlus', 'full'], 8)
    .option('--steps <n>', 'timed steps of each row', wholeNumber(1), 5)
    .option(...traceOption('one more step of each row'))
    .action(async (flags: Flags<bench.TrainOptions> & TraceFlag) => {
      const methods = await chosenMethods(command);
      await runTraced('train', flags, { settings: setupColumns(), figures }, (control) =>
        bench.train({ ...flags, methods, ...control }),
      );
    });
}

function addKernels(group: Command): void {
  const settings: bench.Column<bench.KernelRow>[] = [
    left('shape', ({ shape }) => shape),
    left('dtype', ({ dtype }) => dtype),
    right('batch', ({ batch }) => (batch === null ? '-' : String(batch))),
  ];
  const figures: bench.Column<bench.KernelRow>[] = [
    left('kernel', ({ kernel, label }) => (label ? `${kernel}: ${label}` : kernel)),
    right('ms', ({ ms }) => digits(ms)),
    right('bytes', ({ bytes: moved }) => bytes(moved)),
    right('FLOPs', ({ flops }) => metric(flops)),
    right('rate', ({ roof, flops, bytes: moved, ms }) =>
      roof === 'flops' ? `${digits(flops / ms / 1e6)} GFLOP/s` : `${digits(moved / ms / 1e6)} GB/s`,
    ),
    right('of roof', ({ fractionOfPeak }) => percent(fractionOfPeak)),
    left('roof', ({ roof }) => (roof === 'flops' ? 'GEMM' : 'copy')),
  ];
  const command = addBench(group, 'kernels', "each kernel beside the machine's own rates of GEMM and of copying");
  addBatches(addDtypes(addDevice(command), ['f32', 'bf16']), [1, 4, 16, 32])
    .option('--filter <regexp>', 'only kernels whose name or label matches', regularExpression)
    .action((flags: Flags<bench.KernelsOptions>) =>
      run('kernels', flags, { settings, figures }, (control) => bench.kernels({ ...flags, ...control })),
    );
}

function addUnits(group: Command): void {
  const figures: bench.Column<bench.UnitsRow>[] = [
    left('method', ({ method }) => method),
    right('units', ({ units }) => String(units)),
    right('parameters', ({ parameters }) => count(parameters)),
  ];
  const paperFigures = [paperColumn('units', 'units', String), paperParameters];
  const last: bench.Column<bench.UnitsRow> = left('a unit is a', ({ unit }) => unit);
  const command = addBench(group, 'units', 'modules and numbers that each method trains, the head excluded');
  addMethods(command, ['all'])
    .option(...paperOption)
    .action(async (flags: Flags<{ model: string }> & PaperFlag) => {
      const methods = await chosenMethods(command);
      const layout: Layout<Beside<bench.UnitsRow>> = {
        figures: [...figures, ...(flags.paper ? paperFigures : []), last],
      };
      await run('units', flags, layout, async () =>
        besidePaper(flags, await bench.units({ ...flags, methods }), (row) => bench.paperUnits(row, flags.model)),
      );
    });
}
