import type { Trace } from '../lib/trace';

/** Where a bench runs. */
export interface Place {
  /** As of `Device.open`. Default 'cpu'. */
  device?: string;
}

/** How a caller watches and stops a bench. */
export interface Control {
  /** A bench that is stopped returns the rows that it has. */
  signal?: AbortSignal;
  /** Before each piece of work: how many are done, out of how many, and what comes now. */
  onProgress?(done: number, total: number, what: string): void;
}

/** How a caller gets a timeline, of benches that run whole models. */
export interface Tracing {
  /** Given: once more, after what is timed, each row's work is recorded, see {@link Trace}. The trace's label names the row. */
  onTrace?(trace: Trace): void;
}

/** What a bench gives back: rows, and the machine that they belong to. */
export interface Result<Row> {
  host: Record<string, unknown>;
  rows: Row[];
}
