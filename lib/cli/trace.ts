/** What `--trace` writes and prints. */

import { joinTraces, type Trace, type TraceRow, traceSummary, writeTrace } from '../trace';
import { digits, percent } from './format';
import { left, right, tableOf } from './output';

export const traceOption = (what: string) =>
  ['--trace <file>', `record ${what} and write a timeline that https://ui.perfetto.dev opens`] as const;

/** A kernel or a gap; gaps have no calls and no rates. */
type Row = Pick<TraceRow, 'name' | 'ms' | 'share'> & Partial<TraceRow> & { label: string };

/**
 * Writes the traces to a file, one after the other, and prints where their time went: kernels, and the stream's gaps.
 * @param json - of the command; where '-' leaves standard output to JSON, nothing is printed
 * @throws FileError
 */
export async function presentTraces(file: string, traces: readonly Trace[], json: string | undefined): Promise<void> {
  if (traces.length === 0) {
    process.stderr.write(`note: nothing was traced, '${file}' is not written\n`);
    return;
  }
  await writeTrace(joinTraces(traces), file);
  if (json === '-') return;
  const settings = [left<Row>('traced', ({ label }) => label)];
  const rate = (value: number | undefined): string => (value ? digits(value) : '-');
  const figures = [
    left<Row>('kernel', ({ name }) => name),
    right<Row>('calls', ({ calls }) => (calls === undefined ? '-' : String(calls))),
    right<Row>('ms', ({ ms }) => digits(ms)),
    right<Row>('of the time', ({ share }) => percent(share)),
    right<Row>('GFLOP/s', ({ gflops }) => rate(gflops)),
    right<Row>('GB/s', ({ gbps }) => rate(gbps)),
  ];
  process.stdout.write(`\n${tableOf({ settings, figures }, traces.flatMap(rowsOf)).trimStart()}\n`);
}

function rowsOf(trace: Trace): Row[] {
  const { wallMs, kernels, waiting, between } = traceSummary(trace);
  const label = String(trace.otherData.label);
  return [
    ...kernels.map((row) => ({ label, ...row })),
    { label, name: '(between kernels)', ...between },
    { label, name: '(waiting for JavaScript)', ...waiting },
    { label, name: 'all', ms: wallMs, share: 1 },
  ];
}
