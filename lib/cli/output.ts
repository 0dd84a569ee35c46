/** What every command does with its result: a table under one line of machine facts, or JSON, on standard output or in a file. */

import { type Column, type Report, type Result, table, writeReport } from '../../bench';
import { fileError } from '../io/atomic';
import { bytes } from './format';

export const { version } = require('sidetune/package.json') as { version: string };

/** The option for it. */
export const jsonOption = ['--json <file>', "write the result as JSON; '-' is standard output"] as const;

/** A column of text. */
export function left<Row>(title: string, value: (row: Row) => string): Column<Row> {
  return { title, value, align: 'left' };
}

/** A column of numbers. */
export function right<Row>(title: string, value: (row: Row) => string): Column<Row> {
  return { title, value };
}

/** The machine in one line. */
export function facts({ cpu, isa, gemm, threads, memoryBytes, node }: Result<unknown>['host']): string {
  const parts = [cpu, isa, gemm, `${threads} ${threads === 1 ? 'thread' : 'threads'}`, bytes(Number(memoryBytes))];
  return [...parts, `Node ${node}`, `sidetune ${version}`].join(', ');
}

/**
 * Prints a result.
 * @param json - '-': JSON instead of the table; a file: JSON there beside the table
 * @throws FileError when the file cannot be written; the table is out by then
 */
export function present<Row extends object>(
  benchmark: string,
  { host, rows }: Result<Row>,
  columns: readonly Column<Row>[],
  json: string | undefined,
): void {
  const report: Report = { benchmark, version, host, rows };
  if (json !== '-') process.stdout.write(`${facts(host)}\n\n${table(columns, rows)}\n`);
  if (json === undefined) return;
  try {
    writeReport(report, json);
  } catch (cause) {
    throw fileError('written', json, cause);
  }
}
