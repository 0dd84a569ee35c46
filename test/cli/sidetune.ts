/** Runs the command line as a user does: in a process of its own, from what tsc made of it. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export const ROOT = resolve(__dirname, '../..');
const MAIN = join(ROOT, 'dist/lib/cli/main.js');
const LOCK = join(ROOT, 'build/.compiling');

export interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
}

function newest(folder: string): number {
  const files = readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true }).filter(
    (entry) => entry.isFile() && !entry.parentPath.includes('node_modules'),
  );
  return Math.max(...files.map((entry) => statSync(join(entry.parentPath, entry.name)).mtimeMs));
}

const isFresh = (): boolean => existsSync(MAIN) && statSync(MAIN).mtimeMs > Math.max(newest('lib'), newest('bench'));

/** Compiles when dist is missing or older than its sources. Test files that run side by side compile once. */
export async function compile(): Promise<void> {
  mkdirSync(join(ROOT, 'build'), { recursive: true });
  while (!isFresh()) {
    try {
      mkdirSync(LOCK);
    } catch {
      const age = Date.now() - (statSync(LOCK, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
      if (age > 120_000) rmdirSync(LOCK); // its owner was killed
      await sleep(200);
      continue;
    }
    try {
      const tsc = ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', '--pretty', 'false'];
      const { status, stdout } = spawnSync(process.execPath, tsc, { cwd: ROOT, encoding: 'utf8' });
      if (status !== 0) throw new Error(`the sources do not compile:\n${stdout}`);
    } finally {
      rmdirSync(LOCK);
    }
  }
}

export interface RunOptions {
  env?: Record<string, string>;
  cwd?: string;
  /** Called with everything on standard error so far; may send signals. */
  onStderr?(text: string, child: ChildProcess): void;
}

/** `sidetune ...args`, with no trace of the test runner in its environment, and on one thread: others test beside it. */
export function sidetune(
  args: readonly string[],
  { env = {}, cwd = ROOT, onStderr }: RunOptions = {},
): Promise<Outcome> {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(NODE_|VITEST|FORCE_COLOR)/.test(name));
  const environment = { ...Object.fromEntries(inherited), SIDETUNE_NUM_THREADS: '1', ...env };
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, [MAIN, ...args], {
      cwd,
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
      onStderr?.(stderr, child);
    });
    child.on('error', fail);
    child.on('close', (status) => done({ status, stdout, stderr }));
  });
}

/** A result in JSON, after a check of what every result has. */
export function parseReport(
  text: string,
  benchmark: string,
): { host: Record<string, unknown>; rows: Record<string, unknown>[] } {
  const report = JSON.parse(text) as {
    benchmark: string;
    version: string;
    host: Record<string, unknown>;
    rows: Record<string, unknown>[];
  };
  const { version } = require(join(ROOT, 'package.json')) as { version: string };
  if (report.benchmark !== benchmark) throw new Error(`benchmark is ${report.benchmark}, expected ${benchmark}`);
  if (report.version !== version) throw new Error(`version is ${report.version}, expected ${version}`);
  for (const name of ['cpu', 'isa', 'threads', 'device', 'node']) {
    if (report.host[name] === undefined) throw new Error(`host has no '${name}'`);
  }
  if (!Array.isArray(report.rows)) throw new Error('rows is no list');
  return report;
}
