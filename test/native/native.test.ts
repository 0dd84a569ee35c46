import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { expect, it } from 'vitest';

// In the folder of the build under test: that of the sanitized addon when it is chosen.
const addon = process.env.SIDETUNE_ADDON;
const root = path.join(__dirname, '..', '..');
const build = addon ? path.dirname(path.dirname(path.resolve(addon))) : path.join(root, 'build');

// The sanitizers' runtime is preloaded for node alone: compilers need none, and the executable brings its own, which here looks for leaks too.
const { LD_PRELOAD: _, ...env } = process.env;
if (env.ASAN_OPTIONS) env.ASAN_OPTIONS = env.ASAN_OPTIONS.replace('detect_leaks=0', 'detect_leaks=1');

function run(command: string, args: string[]): string {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', cwd: root, env });
  const output = `${stdout}${stderr}`;
  if (error) throw error;
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${signal ?? status}:\n${output}`);
  return output;
}

it('C++ tests', { timeout: 900_000 }, () => {
  run('cmake', ['--build', build, '--target', 'sidetune_native_tests', '--parallel']);
  const output = run(path.join(build, 'test', 'native', 'sidetune_native_tests'), []);
  expect(output.trimEnd().split('\n').at(-1)).toMatch(/^[1-9]\d* passed, 0 failed$/);
});
