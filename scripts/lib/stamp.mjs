// Stamps: a step is up to date when the hash of everything it depends on is the one it last succeeded with.
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT } from './steps.mjs';

const SKIPPED_FOLDERS = new Set(['node_modules', 'examples/emoji/data', 'examples/emoji/runs']);

function listFiles(path) {
  const stats = statSync(join(ROOT, path), { throwIfNoEntry: false });
  if (!stats) return [];
  if (!stats.isDirectory()) return [path];
  return readdirSync(join(ROOT, path))
    .filter((name) => !SKIPPED_FOLDERS.has(name) && !SKIPPED_FOLDERS.has(`${path}/${name}`))
    .sort()
    .flatMap((name) => listFiles(`${path}/${name}`));
}

/** Hash over names and contents of files and folders (relative to the root; missing ones count as empty), and `extra`. */
export function hashSources(paths, extra = []) {
  const hash = createHash('sha256').update(JSON.stringify(extra));
  for (const file of paths.flatMap(listFiles)) {
    const content = readFileSync(join(ROOT, file));
    hash.update(`\0${file}\0${content.length}\0`).update(content);
  }
  return hash.digest('hex');
}

const stampFile = (name) => join(ROOT, 'build/stamps', name);

/** Runs `work` unless the step `name` last succeeded with this hash and its `output` is still there. */
export async function unlessStamped(name, hash, output, work) {
  const file = stampFile(name);
  if (statSync(join(ROOT, output), { throwIfNoEntry: false }) && readStamp(file) === hash) return false;
  rmSync(file, { force: true });
  await work();
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, hash);
  return true;
}

function readStamp(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
