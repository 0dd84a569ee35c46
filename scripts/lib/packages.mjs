// npm packages: installed from the lock file, and only when node_modules does not already hold what the lock file names.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, runLogged, SetupError } from './steps.mjs';

const readJson = (file) => JSON.parse(readFileSync(file, 'utf8'));

/** Compares package-lock.json with node_modules/.package-lock.json, npm's own record of what it installed. */
function isInstalled(folder) {
  const record = join(folder, 'node_modules/.package-lock.json');
  if (!existsSync(record)) return false;
  const wanted = readJson(join(folder, 'package-lock.json')).packages;
  const present = readJson(record).packages;
  return Object.entries(wanted).every(([path, { version, integrity, optional, cpu }]) => {
    if (!path.startsWith('node_modules/')) return true;
    const found = present[path];
    if (!found) return optional === true && !forThisMachine(wanted[path]);
    return found.version === version && found.integrity === integrity && (!cpu || cpu.includes(process.arch));
  });
}

function forThisMachine({ os, cpu, libc }) {
  return Boolean(os?.includes('linux') && cpu?.includes(process.arch) && (!libc || libc.includes(LIBC)));
}

const LIBC = existsSync('/etc/alpine-release') ? 'musl' : 'glibc';

/** `npm ci` in a folder relative to the root; no package may run scripts of its own. */
export async function ensurePackages(name, folder) {
  const path = join(ROOT, folder);
  if (!existsSync(join(path, 'package-lock.json'))) {
    throw new SetupError(`${join(folder, 'package-lock.json')} is missing; this checkout is not complete.`);
  }
  if (isInstalled(path)) return false;
  const args = ['ci', '--include=dev', '--include=optional', '--ignore-scripts', '--no-audit', '--no-fund'];
  await runLogged('npm', [...args, '--loglevel=error'], name, { cwd: path });
  return true;
}
