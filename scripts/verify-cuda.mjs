// On a machine with an NVIDIA GPU: `npm run verify:cuda [-- cuda:1] [--quick]` builds the CUDA library, runs the tests of kernels, models, methods and training on that device
// beside the CPU and the reference tensors, then the benches with the device's own rates of GEMM and of copying. All of it goes into one file, build/verify-cuda.json
// (docs/CUDA.md). `--quick`: benches of a small model.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const results = join(root, 'build/verify-cuda-part.json');
const report = join(root, 'build/verify-cuda.json');
const { values, positionals } = parseArgs({ allowPositionals: true, options: { quick: { type: 'boolean' } } });
const device = positionals[0] ?? 'cuda:0';
const emulated = device === 'cuda-emulated'; // to try this script itself: needs `npm test` to have built it

function run(args, env = {}) {
  const options = { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } };
  const { status, error } = spawnSync(process.execPath, args, options);
  if (error) throw error;
  return status ?? 1;
}

function fail(sentence) {
  console.error(`error: ${sentence}`);
  process.exit(1);
}

/** What a command left in the file that it was told to. */
function resultOf(command) {
  rmSync(results, { force: true });
  const status = command(results);
  return { status, result: existsSync(results) ? JSON.parse(readFileSync(results, 'utf8')) : null };
}

rmSync(report, { force: true }); // of a run before
if (!emulated && run(['scripts/build-native.mjs'], { SIDETUNE_CUDA: 'ON' }) !== 0) fail('the build failed, see above');
if (run(['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json']) !== 0) fail('TypeScript did not compile');

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

const folders = [
  'test/ops',
  'test/models',
  'test/petl',
  'test/train',
  'test/lifecycle/{replay,scope,tape,tensor}.test.ts',
];
const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--project', 'all', '--reporter=default', '--reporter=json'];
const tests = resultOf((file) =>
  run([...vitest, `--outputFile.json=${file}`, ...(values.quick ? folders.slice(-1) : folders)], {
    SIDETUNE_TEST_DEVICE: device,
  }),
);

const model = ['--model', values.quick ? 'vit_tiny_patch16_224' : 'vit_base_patch16_224'];
const lists = values.quick
  ? { batch: '1', dtype: 'bf16', train: '2' }
  : { batch: '1,4,16,32', dtype: 'f32,bf16', train: '32' };
const benches = {
  kernels: ['--batch', lists.batch, '--dtype', lists.dtype, ...(values.quick ? ['--filter', 'layerNorm'] : [])],
  throughput: ['--batch', lists.batch, '--dtype', lists.dtype, '--methods', 'full,dtl,dtlPlus'],
  train: ['--batch', lists.train, '--dtype', lists.dtype, '--methods', 'linear,dtl,dtlPlus,full'],
  memory: ['--batch', lists.train, '--dtype', lists.dtype, '--methods', 'linear,dtl,dtlPlus,full'],
};
// The emulated device has no rates worth measuring.
if (emulated) delete benches.kernels;
const measured = {};
for (const [name, args] of Object.entries(benches)) {
  console.log(`\n== bench ${name}`);
  const command = ['dist/lib/cli/main.js', 'bench', name, ...model, '--device', device, ...args];
  measured[name] = resultOf((file) => run([...command, '--json', file]));
}

writeFileSync(report, JSON.stringify({ device, info, tests, benches: measured }, null, 2));
rmSync(results, { force: true });
const failed = [['the tests', tests], ...Object.entries(measured)].filter(([, { status }]) => status !== 0);
const { numPassedTests, numFailedTests } = tests.result ?? {};
console.log(
  `\ntests: ${numPassedTests} passed, ${numFailedTests} failed; benches: ${Object.keys(measured).join(', ')}`,
);
for (const [name] of failed) console.error(`error: ${name} failed, see above`);
console.log(`report: ${report}`);
process.exitCode = failed.length > 0 ? 1 : 0;
