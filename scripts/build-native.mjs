// Builds the addon: `node scripts/build-native.mjs [--sanitize]` -> build/Release/sidetune.node (or build-sanitize/Release).
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({ options: { sanitize: { type: 'boolean', default: false } } });
const out = values.sanitize ? 'build-sanitize' : 'build';

/** False for the cache of a configure run that did not finish, of another folder, or of tools since removed. */
function isCacheUsable(cache) {
  const text = readFileSync(cache, 'utf8');
  const entry = (name) => text.match(new RegExp(`^${name}:[A-Z]+=(.*)$`, 'm'))?.[1] ?? '';
  const buildFile = entry('CMAKE_GENERATOR') === 'Ninja' ? 'build.ninja' : 'Makefile';
  return (
    join(entry('CMAKE_HOME_DIRECTORY'), '/') === join(root, '/') &&
    existsSync(join(root, out, buildFile)) &&
    existsSync(entry('CMAKE_MAKE_PROGRAM')) &&
    existsSync(entry('CMAKE_CXX_COMPILER'))
  );
}

const cache = join(root, out, 'CMakeCache.txt');
if (existsSync(cache) && !isCacheUsable(cache)) {
  rmSync(cache);
  rmSync(join(root, out, 'CMakeFiles'), { recursive: true, force: true });
}

const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
const args = ['build', '--config', 'Release', '--parallel', process.env.JOBS ?? String(availableParallelism())];
// AUTO (the default), ON or OFF: native/cuda/toolkit.cmake.
if (process.env.SIDETUNE_CUDA) args.push(`--CDSIDETUNE_CUDA=${process.env.SIDETUNE_CUDA}`);
if (process.env.CUBLAS_ROOT) args.push(`--CDCUBLAS_ROOT=${process.env.CUBLAS_ROOT}`);
if (values.sanitize) args.push('--CDSIDETUNE_SANITIZE=ON', '--out', out);
const { status } = spawnSync(process.execPath, [cmakeJs, ...args], { cwd: root, stdio: 'inherit' });
process.exitCode = status ?? 1;
