/** Methods of the user's own on the command line: files in TypeScript or JavaScript whose `petl.define` calls enter them beside the built-in ones. */

import { existsSync, realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Command } from 'commander';
import { ArgumentError, SidetuneError } from '../errors';
import * as sidetune from '../index';
import { fileError } from '../io/atomic';
import { methodNames } from '../petl';

const extensions = ['.ts', '.mts', '.js', '.mjs', '.cjs'];

/** What each file defined, by its real path: a file runs once in a process. */
const loaded = new Map<string, string[]>();

/** The option of commands that take names of methods elsewhere. */
export const methodFileOption = [
  '--method <file>',
  `a file (${extensions.join(', ')}) that defines methods; may come several times`,
  (file: string, before: string[] = []): string[] => [...before, file],
] as const;

/**
 * Runs a file that defines methods. What it imports as 'sidetune' is this package as it runs here, wherever the file lies: its methods are entered here,
 * and its tensors are ours.
 * @returns the names of the methods that it defines
 * @throws FileError when it cannot be read; ArgumentError when it defines no method or fails, the class of its own error where that is one of ours
 */
export async function loadMethodFile(file: string): Promise<string[]> {
  const refuse = (got: string, expected: string, cause?: unknown): never => {
    throw new ArgumentError(`'${file}' ${got}, expected ${expected}`, { argument: 'method', got, expected, cause });
  };
  let place: string;
  try {
    if (!statSync(file).isFile()) refuse('is no file', 'a file that calls petl.define');
    place = realpathSync(file);
  } catch (cause) {
    throw cause instanceof SidetuneError ? cause : fileError('read', file, cause);
  }
  if (!extensions.includes(path.extname(place))) {
    refuse(`ends in '${path.extname(place)}'`, `a file of one of these kinds: ${extensions.join(', ')}`);
  }
  const known = loaded.get(place);
  if (known) return known;

  const before = new Set(methodNames());
  // Node 20 reads no TypeScript.
  const { createJiti } = await import('jiti');
  const jiti = createJiti(__filename, { fsCache: false, virtualModules: { sidetune } });
  try {
    await jiti.import(place);
  } catch (cause) {
    if (cause instanceof SidetuneError) {
      cause.message = `'${file}': ${cause.message}`;
      throw cause;
    }
    const reason = (cause instanceof Error ? cause.message : String(cause)).replace(/\s*\n\s*/g, ' ');
    throw new ArgumentError(`'${file}' could not be loaded: ${reason}`, { argument: 'method', got: reason, cause });
  }
  const names = methodNames().filter((name) => !before.has(name));
  if (names.length === 0) refuse('defines no method', "a call of petl.define('name', …)");
  loaded.set(place, names);
  return names;
}

/** All methods that some files define, each once. */
export async function loadMethodFiles(files: readonly string[] = []): Promise<string[]> {
  const names: string[] = [];
  for (const file of files) names.push(...(await loadMethodFile(file)));
  return [...new Set(names)];
}

/**
 * The methods that an option names: built-in ones, ones of a file loaded before, and files that define some.
 * @param option - its long name, '--methods'
 */
export async function methodsOf(command: Command, option: string, values: readonly string[]): Promise<string[]> {
  const names: string[] = [];
  for (const value of values) {
    if (methodNames().includes(value)) {
      names.push(value);
    } else if (existsSync(value) || extensions.includes(path.extname(value))) {
      names.push(...(await loadMethodFile(value)));
    } else {
      const flags = command.options.find(({ long }) => long === option)?.flags ?? option;
      const known = methodNames().join(', ');
      command.error(
        `error: option '${flags}' argument '${values.join(',')}' is invalid. Expected one of ${known}, or a file that defines a method.`,
      );
    }
  }
  return [...new Set(names)];
}

/** As {@link methodsOf}, for an option that names one method. */
export async function methodOf(command: Command, option: string, value: string): Promise<string> {
  const names = await methodsOf(command, option, [value]);
  if (names.length === 1) return names[0]!;
  throw new ArgumentError(`${option}: '${value}' defines ${names.join(', ')}, expected a file with one method`, {
    argument: option.replace(/^--/, ''),
    got: names.join(', '),
    expected: 'one method',
  });
}
