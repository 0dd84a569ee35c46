/**
 * A timeline of what a device ran, in Chrome's trace event format: https://ui.perfetto.dev opens it. {@link Device.startTrace} begins to record,
 * {@link Device.stopTrace} gives the trace.
 */

import type { Device } from './device';
import { ArgumentError } from './errors';
import { writeFileAtomic } from './io/atomic';
import { separator } from './label';
import type { TracedCall } from './native';

export interface TraceOptions {
  /** What was traced, such as 'dtl f32 batch 1': a slice around everything. */
  label?: string;
  /** Calls beyond this many are not recorded, only counted. Default 100,000: some 200 training steps of a ViT-B/16, 80 MB as a file. */
  maxCalls?: number;
}

/** An event of Chrome's format. Times are microseconds. */
export interface TraceEvent {
  name: string;
  /** X: from `ts` on for `dur`; C: a counter's value from `ts` on; s, f: the ends of an arrow; M: the name of a track. */
  ph: 'X' | 'C' | 's' | 'f' | 'M';
  ts: number;
  dur?: number;
  pid: number;
  tid: number;
  cat?: string;
  /** Of an arrow. */
  id?: number;
  bp?: 'e';
  args?: Record<string, unknown>;
}

/**
 * Tracks: 'JavaScript', the time inside each call; 'kernels', what the stream ran, with `call` (number), `tensors`, `bytes` (that must move), `flops` and the
 * rates that come of them; 'model', the parts that queued them. The counter 'queued calls' says how far the stream is behind: 0 where it waits for
 * JavaScript. Arrows lead from a call to its kernel; a call without one was skipped after an error, or dropped when the device closed.
 */
export interface Trace {
  /** In order of `ts`. */
  traceEvents: TraceEvent[];
  displayTimeUnit: 'ms';
  /** The machine's facts, `label`, and `droppedCalls`: how many were beyond `maxCalls`. */
  otherData: Record<string, unknown> & { droppedCalls: number };
}

/** One line of a {@link TraceSummary}. */
export interface TraceRow {
  /** Of the kernel or of the part; '' for kernels outside all parts. */
  name: string;
  calls: number;
  ms: number;
  /** Of the whole trace's time. */
  share: number;
  gflops: number;
  gbps: number;
}

/** Where the time went: kernels, `waiting` and `between` add up to `wallMs`. */
export interface TraceSummary {
  /** From the beginning of the first call in JavaScript to the end of the last kernel. */
  wallMs: number;
  /** By kernel, those that took longest first. */
  kernels: TraceRow[];
  /** By part of the model, in the order in which they ran. */
  parts: TraceRow[];
  /** Nothing was queued: the stream waited for JavaScript. */
  waiting: { ms: number; share: number };
  /** Something was queued and no kernel ran: what a call itself costs the stream. */
  between: { ms: number; share: number };
}

const pid = 1;
const tracks = { JavaScript: 1, kernels: 2, model: 3 };
/** Between traces that are joined, in microseconds. */
const distance = 1000;

/** @internal Fills in the defaults. @throws ArgumentError */
export function completeTraceOptions(options: TraceOptions): { label: string; maxCalls: number } {
  const complete = { label: '', maxCalls: 100_000, ...options };
  const refuse = (argument: string, got: unknown, expected: string): never => {
    throw new ArgumentError(`startTrace: '${argument}' is ${String(got)}, expected ${expected}`, {
      kernel: 'startTrace',
      argument,
      got: String(got),
      expected,
    });
  };
  for (const name of Object.keys(options)) {
    if (name !== 'label' && name !== 'maxCalls') refuse(name, 'unknown', 'label or maxCalls');
  }
  const { label, maxCalls } = complete;
  if (typeof label !== 'string') refuse('label', label, 'a text');
  const high = 10_000_000;
  if (!Number.isInteger(maxCalls) || maxCalls < 1 || maxCalls > high)
    refuse('maxCalls', maxCalls, `a whole number from 1 to ${high}`);
  return complete;
}

type RanCall = TracedCall & { id: number; ranFrom: number; ranTo: number };

/** @internal The trace of calls, in the order in which they were queued. */
export function makeTrace(
  calls: readonly TracedCall[],
  { label, ...facts }: Trace['otherData'] & { label: string },
): Trace {
  const all = calls.map((call, index) => ({ ...call, id: index + 1 }));
  const ran = all.filter((call): call is RanCall => call.ranFrom !== undefined);
  const start = all[0]?.begun ?? 0;
  const events = [
    ...all.map(javascriptEvent),
    ...ran.flatMap(kernelEvents),
    ...queuedCalls(ran, start),
    ...partEvents(ran, label),
  ];
  // Stable: slices that begin together stay in order, the outer ones first.
  events.sort((a, b) => a.ts - b.ts);
  return {
    traceEvents: [...trackNames(), ...events],
    displayTimeUnit: 'ms',
    otherData: { ...(label === '' ? {} : { label }), ...facts },
  };
}

function trackNames(): TraceEvent[] {
  const named = (name: string, tid: number, args: Record<string, unknown>): TraceEvent => ({
    ...{ name, ph: 'M', ts: 0, pid, tid, args },
  });
  return [
    named('process_name', 0, { name: 'sidetune' }),
    ...Object.entries(tracks).flatMap(([name, tid]) => [
      named('thread_name', tid, { name }),
      named('thread_sort_index', tid, { sort_index: tid }),
    ]),
  ];
}

/** To three places: the clock gives nanoseconds. */
function rounded(value: number): number {
  return Math.round(value * 1000) / 1000;
}

function slice(
  name: string,
  track: keyof typeof tracks,
  from: number,
  to: number,
  args: Record<string, unknown>,
): TraceEvent {
  const ts = rounded(from);
  return { name, ph: 'X', ts, dur: rounded(rounded(to) - ts), pid, tid: tracks[track], args };
}

function javascriptEvent({ kernel, call, begun, queued, ranFrom }: TracedCall): TraceEvent {
  return slice(kernel, 'JavaScript', begun, queued, {
    ...(call === undefined ? {} : { call }),
    ...(ranFrom === undefined ? { ran: false } : {}),
  });
}

function kernelEvents({ id, kernel, call, label, text, bytes, flops, begun, ranFrom, ranTo }: RanCall): TraceEvent[] {
  const rate = (amount: number): number => (ranTo > ranFrom ? rounded(amount / (ranTo - ranFrom) / 1000) : 0);
  const args = {
    ...(call === undefined ? {} : { call }),
    ...(label === '' ? {} : { part: label }),
    ...(text === '' ? {} : { tensors: text }),
    ...{ bytes, flops, 'GFLOP/s': rate(flops), 'GB/s': rate(bytes) },
  };
  const arrow = { name: 'call', cat: 'call', id, pid };
  return [
    { ...arrow, ph: 's', ts: rounded(begun), tid: tracks.JavaScript },
    slice(kernel, 'kernels', ranFrom, ranTo, args),
    { ...arrow, ph: 'f', bp: 'e', ts: rounded(ranFrom), tid: tracks.kernels },
  ];
}

// A call counts from when it is queued to the end of its kernel. The stream may begin it before JavaScript has returned from the call.
function queuedCalls(ran: readonly RanCall[], start: number): TraceEvent[] {
  const changes = ran.flatMap(({ queued, ranFrom, ranTo }) => [
    { ts: Math.min(queued, ranFrom), by: 1 },
    { ts: ranTo, by: -1 },
  ]);
  changes.sort((a, b) => a.ts - b.ts || b.by - a.by);
  let calls = 0;
  return [{ ts: start, by: 0 }, ...changes].map(({ ts, by }) => {
    calls += by;
    return { name: 'queued calls', ph: 'C', ts: rounded(ts), pid, tid: 0, args: { calls } };
  });
}

// A slice for each run of kernels in the same part, and around it those of the parts that it is in.
function partEvents(ran: readonly RanCall[], root: string): TraceEvent[] {
  const events: TraceEvent[] = [];
  let open: TraceEvent[] = [];
  for (const { label, ranFrom, ranTo } of ran) {
    const names = [root, ...label.split(separator)].filter((name) => name !== '');
    const differs = names.findIndex((name, depth) => open[depth]?.name !== name);
    open = open.slice(0, differs < 0 ? names.length : differs);
    for (const name of names.slice(open.length)) {
      const event = slice(name, 'model', ranFrom, ranTo, {});
      open.push(event);
      events.push(event);
    }
    for (const event of open) event.dur = rounded(rounded(ranTo) - event.ts);
  }
  return events;
}

/** Records what `body` queues, hands the trace over and returns what `body` does. When it fails, nothing is recorded any more. */
export async function traced<T>(
  device: Device,
  label: string,
  body: () => T | Promise<T>,
  onTrace: (trace: Trace) => void,
): Promise<T> {
  device.startTrace({ label });
  let result: T;
  let trace: Trace;
  try {
    result = await body();
    trace = await device.stopTrace();
  } catch (error) {
    await device.stopTrace().catch(() => device.stopTrace()); // a late error is told first, then the trace ends
    throw error;
  }
  onTrace(trace);
  return result;
}

/** One trace with all of them, one after the other; labels tell them apart. The facts are those of the first. */
export function joinTraces(traces: readonly Trace[]): Trace {
  const joined: Trace = {
    traceEvents: trackNames(),
    displayTimeUnit: 'ms',
    otherData: { ...traces[0]?.otherData, droppedCalls: 0 },
  };
  if (traces.length > 1) delete joined.otherData.label;
  let end = 0;
  let ids = 0;
  for (const { traceEvents, otherData } of traces) {
    const events = traceEvents.filter(({ ph }) => ph !== 'M');
    const shift = end - (events[0]?.ts ?? 0);
    const firstId = ids;
    for (const event of events) {
      const moved = { ...event, ts: rounded(event.ts + shift) };
      if (event.id !== undefined) moved.id = firstId + event.id;
      ids = Math.max(ids, moved.id ?? 0);
      end = Math.max(end, moved.ts + (moved.dur ?? 0));
      joined.traceEvents.push(moved);
    }
    end += distance;
    joined.otherData.droppedCalls += otherData.droppedCalls;
  }
  return joined;
}

/** Where the time of a trace went, by kernel and by part of the model. */
export function traceSummary({ traceEvents }: Trace): TraceSummary {
  const kernels = traceEvents.filter(({ ph, tid }) => ph === 'X' && tid === tracks.kernels);
  const counts = traceEvents.filter(({ ph }) => ph === 'C');
  const from = counts[0]?.ts ?? 0;
  const last = kernels.at(-1);
  const wall = last ? last.ts + last.dur! - from : 0;
  const share = (microseconds: number): number => (wall > 0 ? microseconds / wall : 0);
  const figure = (microseconds: number) => ({ ms: microseconds / 1000, share: share(microseconds) });

  const rowsBy = (nameOf: (event: TraceEvent) => string): TraceRow[] => {
    const groups = new Map<string, TraceEvent[]>();
    for (const event of kernels) {
      const group = groups.get(nameOf(event));
      if (group) group.push(event);
      else groups.set(nameOf(event), [event]);
    }
    return [...groups].map(([name, events]) => {
      const sum = (amount: (event: TraceEvent) => number): number =>
        events.reduce((total, event) => total + amount(event), 0);
      const time = sum(({ dur }) => dur!);
      const rate = (field: 'flops' | 'bytes'): number =>
        time > 0 ? sum(({ args }) => args![field] as number) / time / 1000 : 0;
      return { name, calls: events.length, ...figure(time), gflops: rate('flops'), gbps: rate('bytes') };
    });
  };
  let waiting = 0;
  for (const [index, { ts, args }] of counts.entries()) {
    const next = counts[index + 1];
    if (next && args!.calls === 0) waiting += next.ts - ts;
  }
  const busy = kernels.reduce((sum, { dur }) => sum + dur!, 0);
  return {
    wallMs: wall / 1000,
    kernels: rowsBy(({ name }) => name).sort((a, b) => b.ms - a.ms),
    parts: rowsBy(({ args }) => (args!.part as string | undefined) ?? ''),
    waiting: figure(waiting),
    between: figure(wall - busy - waiting),
  };
}

/** Writes a trace as JSON that Perfetto and chrome://tracing open, an event a line; whole or not at all. @throws FileError */
export async function writeTrace(trace: Trace, path: string): Promise<void> {
  await writeFileAtomic(path, jsonOf(trace));
}

const eventsPerChunk = 1000;

function* jsonOf({ traceEvents, ...rest }: Trace): Generator<Uint8Array> {
  yield Buffer.from(`${JSON.stringify(rest).slice(0, -1)},"traceEvents":[\n`);
  for (let from = 0; from < traceEvents.length; from += eventsPerChunk) {
    const lines = traceEvents.slice(from, from + eventsPerChunk).map((event) => JSON.stringify(event));
    yield Buffer.from(`${from > 0 ? ',\n' : ''}${lines.join(',\n')}`);
  }
  yield Buffer.from('\n]}\n');
}
