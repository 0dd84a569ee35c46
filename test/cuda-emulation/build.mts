import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** Builds a target in the folder of the addon under test. */
export function bringUpToDate(target: string): void {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const addon = process.env.SIDETUNE_ADDON;
  const build = addon ? path.dirname(path.dirname(path.resolve(addon))) : path.join(root, 'build');
  if (!existsSync(path.join(build, 'CMakeCache.txt'))) return; // somebody's own folder of libraries
  const { LD_PRELOAD: _, ...env } = process.env; // the sanitizers' runtime is for node alone
  const args = ['--build', build, '--target', target, '--parallel'];
  const { status, error, stdout, stderr } = spawnSync('cmake', args, { encoding: 'utf8', cwd: root, env });
  if (error) throw error;
  if (status !== 0) throw new Error(`cmake ${args.join(' ')} ended with ${status}:\n${stdout}${stderr}`);
}

/** Brings the library of the device 'cuda-emulated' up to date, beside the addon under test; vitest calls it before the tests that need it. */
export default function setup(): void {
  bringUpToDate('sidetune_cuda_emulated');
}
