// Builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests of native code against it:
// `node scripts/test-sanitized.mjs [arguments for vitest]`, by default all that run kernels. With
// `--project cuda-emulated` those of the CUDA kernels under emulation, which are built in the same way.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const addon = join(root, 'build-sanitize/Release/sidetune.node');
const vitest = join(root, 'node_modules/vitest/vitest.mjs');

function run(command, args, env) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

// The runtime must be in the process before anything else, and node does not link it.
function runtime() {
  const compiler = process.env.CXX?.split(' ')[0] || 'c++';
  const { stdout, error } = spawnSync(compiler, ['-print-file-name=libasan.so'], { encoding: 'utf8' });
  const file = stdout?.trim();
  if (error || !file || !existsSync(file)) {
    console.error(`error: ${compiler} has no libasan.so, which g++ brings with it; set CXX to a compiler that has it`);
    process.exit(1);
  }
  return file;
}

run(process.execPath, [join(root, 'scripts/build-native.mjs'), '--sanitize'], process.env);

const CPU = [
  'test/ops',
  'test/lifecycle',
  'test/native',
  'test/models',
  'test/int8',
  'test/petl',
  'test/optim',
  'test/trace.test.ts',
];
const CUDA = ['test/ops', 'test/lifecycle', 'test/models/vit.test.ts', 'test/cuda-emulation/paths.test.ts'];

const wanted = process.argv.slice(2);
const project = wanted.indexOf('--project');
if (project >= 0) wanted.splice(project, 2, `--project=${wanted[project + 1]}`);
if (!wanted.some((argument) => argument.startsWith('--project='))) wanted.unshift('--project=all');
const onCuda = wanted.some((argument) => argument.startsWith('--project=cuda'));
const paths = wanted.some((argument) => !argument.startsWith('-')) ? [] : onCuda ? CUDA : CPU;
// A second stack for every thread of a block, for what outlives its function, would take most of the time.
const useAfterReturn = onCuda ? 0 : 1;
run(process.execPath, [vitest, 'run', '--testTimeout=900000', '--hookTimeout=120000', ...paths, ...wanted], {
  ...process.env,
  SIDETUNE_ADDON: addon,
  LD_PRELOAD: runtime(),
  // Node itself leaves memory to the system when it ends, so leaks are looked for in the C++ tests alone (test/native/native.test.ts).
  ASAN_OPTIONS: `detect_leaks=0:detect_stack_use_after_return=${useAfterReturn}:strict_init_order=1`,
  UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
});
