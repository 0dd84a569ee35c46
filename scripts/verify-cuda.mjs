// On a machine with an NVIDIA GPU: `npm run verify:cuda [-- cuda:1]` builds the CUDA library, runs the tests of kernels, models, methods and training on that device, and
// leaves build/verify-cuda.json: what computed, and every test's result.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const device = process.argv[2] ?? 'cuda:0';
const results = join(root, 'build/verify-cuda-tests.json');
const report = join(root, 'build/verify-cuda.json');

function run(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  if (error) throw error;
  return status ?? 1;
}

function fail(sentence) {
  console.error(`error: ${sentence}`);
  process.exit(1);
}

for (const file of [results, report]) rmSync(file, { force: true }); // of a run before

if (run(process.execPath, ['scripts/build-native.mjs'], { SIDETUNE_CUDA: 'ON' }) !== 0)
  fail('the build failed, see above');
if (run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json']) !== 0)
  fail('TypeScript did not compile');

const { Device } = createRequire(import.meta.url)(join(root, 'dist/lib/index.js'));
let info;
try {
  const opened = await Device.open(device);
  info = opened.info();
  await opened.close();
} catch (error) {
  fail(error.message);
}
console.log(`${device}: ${info.processor}, compute capability ${info.computeCapability}, ${info.gemm}`);

const tests = ['test/ops', 'test/models', 'test/petl', 'test/train', 'test/lifecycle/replay.test.ts'];
const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--project', 'all', '--reporter=default', '--reporter=json'];
const status = run(process.execPath, [...vitest, `--outputFile.json=${results}`, ...tests], {
  SIDETUNE_TEST_DEVICE: device,
});
if (!existsSync(results)) fail('the tests left no results');
writeFileSync(report, JSON.stringify({ device, info, tests: JSON.parse(readFileSync(results, 'utf8')) }, null, 2));
console.log(`report: ${report}`);
process.exitCode = status;
