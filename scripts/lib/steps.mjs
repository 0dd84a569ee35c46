// Running steps: one short line each, long output to a log file, and Ctrl-C that ends in exit code 130.
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const LOGS = join(ROOT, 'build/logs');

const HEAD_LINES = 12; // npm and compilers name the cause first
const TAIL_LINES = 28;
const NAME_WIDTH = 18;

/** A failure that one sentence explains; `log` is the file whose end shows the details. */
export class SetupError extends Error {
  constructor(message, log) {
    super(message);
    this.log = log;
  }
}

/** Thrown out of a step when a signal asked this process to stop. */
export class Stopped extends Error {}

const children = new Set();
let stoppedBy;

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    stoppedBy ??= signal;
    // A terminal sends Ctrl-C to the children too; sending it twice would cut short a child that is saving its work.
    if (signal === 'SIGINT' && process.stdin.isTTY) return;
    for (const child of children) child.kill(signal);
  });
}

function throwIfStopped() {
  if (stoppedBy) throw new Stopped(stoppedBy);
}

const signalStatus = (signal) => 128 + constants.signals[signal];

/** Runs a command to its end and resolves to its exit status, as a shell would give it. */
export function run(command, args, options) {
  throwIfStopped();
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: ROOT, stdio: 'inherit', ...options });
    children.add(child);
    child.on('error', (error) => {
      children.delete(child);
      const reason = error.code === 'ENOENT' ? 'it is not on the PATH' : error.message;
      reject(new SetupError(`'${command}' could not be started: ${reason}.`));
    });
    child.on('close', (status, signal) => {
      children.delete(child);
      resolve(status ?? signalStatus(signal));
    });
  });
}

/** Runs a command with its output in build/logs/NAME.log; throws SetupError when it fails. */
export async function runLogged(command, args, name, options) {
  mkdirSync(LOGS, { recursive: true });
  const log = join(LOGS, `${name}.log`);
  const file = openSync(log, 'w');
  try {
    const status = await run(command, args, { ...options, stdio: ['ignore', file, file] });
    throwIfStopped();
    if (status !== 0) {
      throw new SetupError(`'${[command, ...args].join(' ').replaceAll(ROOT, '')}' ended with status ${status}.`, log);
    }
  } finally {
    closeSync(file);
  }
}

/** Runs `work` under a name; `work` resolves to false when there was nothing to do. */
export async function step(name, work) {
  const label = name.padEnd(NAME_WIDTH);
  const terminal = process.stderr.isTTY;
  const finish = (text) => process.stderr.write(`${terminal ? '\r\x1b[K' : ''}${label}${text}\n`);
  if (terminal) process.stderr.write(`${label}…`);
  const start = performance.now();
  const elapsed = () => `${((performance.now() - start) / 1000).toFixed(1)} s`;
  try {
    throwIfStopped();
    const changed = await work();
    finish(changed === false ? 'up to date' : elapsed());
  } catch (error) {
    finish(error instanceof Stopped ? 'stopped' : `failed after ${elapsed()}`);
    throw error;
  }
}

/** Prints a failure for people and returns the exit status that belongs to it. */
export function report(error) {
  if (error instanceof Stopped) return signalStatus(error.message);
  if (!(error instanceof SetupError)) throw error;
  if (error.log) {
    const lines = readFileSync(error.log, 'utf8').trimEnd().split('\n');
    const left = lines.length - HEAD_LINES - TAIL_LINES;
    if (left > 0) lines.splice(HEAD_LINES, left, `… ${left} lines more in ${relative(ROOT, error.log)} …`);
    process.stderr.write(`${lines.join('\n')}\n`);
  }
  process.stderr.write(`error: ${error.message}\n`);
  return 1;
}

/** Ends the process with a child's status, or with 130 after Ctrl-C whatever the child made of it. */
export function exitWith(status) {
  process.exitCode = stoppedBy ? signalStatus(stoppedBy) : status;
}

/** Holds the checkout's build lock during `work`, so that two runs at once do not build over each other. */
export async function withLock(work) {
  mkdirSync(LOGS, { recursive: true });
  const file = join(dirname(LOGS), '.lock');
  // The lock lives as long as this child, and the child as long as its standard input: nothing stale can stay behind.
  const holder = spawn('flock', [file, 'sh', '-c', 'echo; exec cat'], { stdio: ['pipe', 'pipe', 'ignore'] });
  children.add(holder);
  const note = setTimeout(
    () => process.stderr.write('waiting for another run in this folder to finish building\n'),
    1000,
  );
  try {
    await new Promise((resolve) => {
      holder.stdout.once('data', resolve);
      holder.once('error', resolve); // no flock on this machine: go on without
      holder.once('close', resolve);
    });
    clearTimeout(note);
    throwIfStopped();
    return await work();
  } finally {
    clearTimeout(note);
    children.delete(holder);
    holder.stdin.end();
  }
}
