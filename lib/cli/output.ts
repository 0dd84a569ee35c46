/** What every command does with its result: a table under one line of machine facts, or JSON, on standard output or in a file. */

import { writeFileSync } from 'node:fs';
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
export function facts(host: Result<unknown>['host']): string {
  const { cpu, isa, threads, gpu, computeCapability, gemm, memoryBytes, node } = host;
  const device = gpu
    ? [gpu, `compute capability ${computeCapability}`, gemm, cpu]
    : [cpu, isa, gemm, `${threads} ${threads === 1 ? 'thread' : 'threads'}`];
  return [...device, bytes(Number(memoryBytes)), `Node ${node}`, `sidetune ${version}`].join(', ');
}

/** How a result looks as a table. */
export interface Layout<Row> {
  /** What was asked for; where all rows have the same it stands above the table. */
  settings?: readonly Column<Row>[];
  /** What was found. */
  figures: readonly Column<Row>[];
}

/**
 * Prints a result.
 * @param json - '-': JSON instead of the table; a file: JSON there beside the table
 * @throws FileError when the file cannot be written; the table is out by then
 */
export function present<Row extends object>(
  benchmark: string,
  { host, rows }: Result<Row>,
  layout: Layout<Row>,
  json: string | undefined,
): void {
  const report: Report = { benchmark, version, host, rows };
  if (json !== '-') process.stdout.write(`${facts(host)}\n${tableOf(layout, rows)}\n`);
  if (json !== undefined) written(json, () => writeReport(report, json));
}

/** Writes a plot. @throws FileError */
export function writeText(file: string, content: string): void {
  written(file, () => writeFileSync(file, content));
}

function written(file: string, write: () => void): void {
  try {
    write();
  } catch (cause) {
    throw fileError('written', file, cause);
  }
}

/** The table under a line of what all rows share. */
export function tableOf<Row>({ settings = [], figures }: Layout<Row>, rows: readonly Row[]): string {
  const isCommon = ({ value }: Column<Row>): boolean => new Set(rows.map(value)).size === 1;
  const common = settings.filter(isCommon).map(({ title, value }) => `${title} ${value(rows[0]!)}`);
  const columns = [...settings.filter((column) => !isCommon(column)), ...figures];
  return [...(common.length > 0 ? [common.join(', ')] : []), '', table(columns, rows)].join('\n');
}
