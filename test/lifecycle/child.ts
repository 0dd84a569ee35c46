/** Programs of test/lifecycle/children, run in a process of their own: there a crash is a result and not the end of the test run. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';

const root = path.join(__dirname, '..', '..');

/** Brings dist/lib, which children load, up to date with lib: `npm test` has compiled it before, a bare `vitest` may not have. */
function compileLibrary(): void {
  const config = ts.readConfigFile(path.join(root, 'tsconfig.build.json'), ts.sys.readFile).config;
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  for (const name of readdirSync(path.join(root, 'lib'), { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.ts')) continue;
    const source = path.join(root, 'lib', name);
    const target = path.join(root, 'dist', 'lib', name.replace(/ts$/, 'js'));
    if ((statSync(target, { throwIfNoEntry: false })?.mtimeMs ?? 0) > statSync(source).mtimeMs) continue;
    const { outputText } = ts.transpileModule(readFileSync(source, 'utf8'), {
      compilerOptions: { ...options, declaration: false },
      fileName: source,
    });
    mkdirSync(path.dirname(target), { recursive: true });
    const fresh = `${target}.${process.pid}`;
    writeFileSync(fresh, outputText);
    renameSync(fresh, target); // another test process may be compiling too
  }
}
compileLibrary();

export interface ChildOptions {
  args?: string[];
  /** Flags of node itself. */
  flags?: string[];
  env?: Record<string, string>;
  /** Exit status to be expected. Default 0. */
  status?: number;
}

/** Runs children/`name`.cjs and returns what it printed last, as JSON. Throws with all its output when it did not end as expected. */
export function runChild(name: string, { args = [], flags = [], env = {}, status = 0 }: ChildOptions = {}): unknown {
  const file = path.join(__dirname, 'children', `${name}.cjs`);
  const child = spawnSync(process.execPath, [...flags, file, ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 120_000,
  });
  if (child.status !== status) {
    const end = child.signal ?? child.error?.message ?? child.status;
    throw new Error(`${name} ${args.join(' ')} ended with ${end}, expected ${status}:\n${child.stdout}${child.stderr}`);
  }
  const last = child.stdout.trimEnd().split('\n').at(-1);
  return last ? JSON.parse(last) : undefined;
}
