// Formats the C++ sources with clang-format and .clang-format; `--check` changes nothing and fails where it would.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const FOLDERS = ['native', 'binding', 'test/native', 'test/cuda-emulation'];
const SOURCE = /\.(h|cc|cuh|cu)$/;

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({ options: { check: { type: 'boolean', default: false } } });

const files = FOLDERS.filter((folder) => existsSync(join(root, folder))).flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true })
    .filter((name) => SOURCE.test(name))
    .map((name) => join(folder, name))
    .sort(),
);

if (files.length > 0) {
  const mode = values.check ? ['--dry-run', '--Werror'] : ['-i'];
  const { status, error } = spawnSync('clang-format', [...mode, ...files], { cwd: root, stdio: 'inherit' });
  if (error?.code === 'ENOENT') {
    const needed = values.check && process.env.CI === 'true';
    console.error(
      `${needed ? 'error' : 'note'}: clang-format is not installed (Debian package clang-format); C++ not checked.`,
    );
    process.exitCode = needed ? 1 : 0;
  } else {
    if (error) throw error;
    process.exitCode = status ?? 1;
  }
}
