#!/usr/bin/env node
// Stands in for node-gyp when prebuildify calls it (`rebuild --target=V --devdir=D --arch=A --release|--debug`) and builds
// with cmake-js. The target version and devdir are dropped: a Node-API addon fits every Node version.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: { arch: { type: 'string' }, debug: { type: 'boolean' } },
  strict: false,
  allowPositionals: true,
});

const args = ['rebuild', '--config', values.debug ? 'Debug' : 'Release'];
args.push('--parallel', process.env.JOBS ?? String(availableParallelism()));
if (values.arch) args.push('--arch', values.arch);

const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
const { status } = spawnSync(process.execPath, [cmakeJs, ...args], { stdio: 'inherit' });
process.exitCode = status ?? 1;
