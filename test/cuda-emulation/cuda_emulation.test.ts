import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { expect, it } from 'vitest';

// In the folder of the build under test, as in test/native/native.test.ts.
const addon = process.env.SIDETUNE_ADDON;
const root = path.join(__dirname, '..', '..');
const build = addon ? path.dirname(path.dirname(path.resolve(addon))) : path.join(root, 'build');
const { LD_PRELOAD: _, SIDETUNE_EMULATION: __, ...env } = process.env;
if (env.ASAN_OPTIONS) env.ASAN_OPTIONS = env.ASAN_OPTIONS.replace('detect_leaks=0', 'detect_leaks=1');

function run(command: string, args: string[]): string {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', cwd: root, env });
  const output = `${stdout}${stderr}`;
  if (error) throw error;
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${signal ?? status}:\n${output}`);
  return stdout;
}

// The second watches loads and stores; it and the address sanitizer do not go together.
const targets = ['sidetune_emulation_tests', ...(env.ASAN_OPTIONS ? [] : ['sidetune_emulation_checked_tests'])];

it.each(targets)('%s', { timeout: 900_000 }, (target) => {
  run('cmake', ['--build', build, '--target', target, '--parallel']);
  const output = run(path.join(build, 'test', 'cuda-emulation', target), []);
  expect(output.trimEnd().split('\n').at(-1)).toMatch(/^[1-9]\d* passed, 0 failed$/);
});
