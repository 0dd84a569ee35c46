// A test of the tests: deletes each __syncthreads and __syncwarp of the CUDA sources in turn and demands that the check build's tests fail (test/cuda-emulation).
// `node scripts/test-barriers.mjs [file...]`; files are 'sample_kernels.cuh', 'layer_norm.cu', ... and by default all. Needs a build of the project.
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const build = join(root, 'build');
const emulation = join(build, 'test/cuda-emulation');
const BARRIER = /\b__sync(threads|warp)\([^;()]*\);/g;
const wanted = process.argv.slice(2);

function run(command, args, env = process.env) {
  const { status, error, stdout, stderr } = spawnSync(command, args, { cwd: root, env, encoding: 'utf8' });
  if (error) throw error;
  return { passed: status === 0, output: `${stdout}${stderr}` };
}
function must(command, args) {
  const { passed, output } = run(command, args);
  if (!passed) throw new Error(`${command} ${args.join(' ')} failed:\n${output}`);
}

const commands = JSON.parse(readFileSync(join(build, 'compile_commands.json'), 'utf8'));
const objectOf = ({ command, directory }) => resolve(directory, command.match(/ -o (\S+)/)[1]);
const unitsOf = (target) => commands.filter((unit) => unit.command.includes(`/${target}.dir/`));
const runtime = [
  ...unitsOf('cuda_emulation_checker').map(objectOf),
  join(emulation, 'libcuda_emulation.a'),
  '-ldl',
  '-pthread',
];
const compiler = unitsOf('cuda_emulation')[0]
  .command.split(' ')
  .find((word) => !word.endsWith('ccache'));

const scratch = mkdtempSync(join(tmpdir(), 'barriers-'));

// Compiles a unit of the copy with the unit's own options.
function compile(unit, folder) {
  const source = join(scratch, relative(root, unit.file));
  const object = join(folder, `${basename(unit.file)}.o`);
  const command = unit.command.replace(/ -o \S+/, ` -o ${object}`).replace(/ -c \S+/, ` -c ${source}`);
  must('sh', ['-c', `cd '${unit.directory}' && ${command}`]);
  return object;
}

const objects = join(scratch, 'objects');
const release = join(scratch, 'Release');
for (const folder of [objects, release]) mkdirSync(folder, { recursive: true });
cpSync(join(root, 'test/cuda-emulation/tests'), join(scratch, 'test/cuda-emulation/tests'), { recursive: true });
cpSync(join(root, 'native'), join(scratch, 'native'), { recursive: true });

// The emulation's own sample kernels, held by its own tests; not by those that look for reports.
const samples = {
  target: 'sidetune_emulation_checked_tests',
  folder: 'test/cuda-emulation/tests',
  files: ['sample_kernels.cuh'],
  test() {
    const includes = (unit) => readFileSync(unit.file, 'utf8').includes('"sample_kernels.cuh"');
    const units = unitsOf('sidetune_emulation_checked_tests');
    const compiled = units.filter((unit) => includes(unit) && basename(unit.file) !== 'checked_test.cu');
    const main = objectOf(units.find((unit) => basename(unit.file) === 'main.cc'));
    const program = join(scratch, 'tests');
    must(compiler, ['-o', program, main, ...compiled.map((unit) => compile(unit, objects)), ...runtime]);
    return run(program, []);
  },
};

// native/cuda, held by the tests of ops on the emulated device.
const kernels = {
  target: 'sidetune_cuda_checked',
  folder: 'native/cuda',
  files: readdirSync(join(root, 'native/cuda')).filter((file) => /\.cuh?$/.test(file)),
  test(file) {
    const linked = unitsOf('sidetune_cuda_checked').map((unit) =>
      file === undefined || file.endsWith('.cuh') || basename(unit.file) === file
        ? compile(unit, objects)
        : objectOf(unit),
    );
    must(compiler, ['-shared', '-o', join(release, 'libsidetune_cuda_emulated.so'), ...linked, ...runtime]);
    copyFileSync(join(build, 'Release/sidetune.node'), join(release, 'sidetune.node'));
    const own = `test/ops/${file?.replace(/\.cuh?$/, '')}.test.ts`;
    const tests = existsSync(join(root, own)) ? own : 'test/ops';
    const vitest = join(root, 'node_modules/vitest/vitest.mjs');
    const env = { ...process.env, SIDETUNE_ADDON: join(release, 'sidetune.node') };
    return run(process.execPath, [vitest, 'run', '--project=cuda-emulated', '--bail=1', tests], env);
  },
};

let survivors = 0;
try {
  for (const { target, folder, files, test } of [samples, kernels]) {
    const chosen = files.filter((file) => wanted.length === 0 || wanted.includes(file));
    const barriers = chosen.flatMap((file) => {
      const text = readFileSync(join(root, folder, file), 'utf8');
      return [...text.matchAll(BARRIER)].map(({ 0: barrier, index }) => ({ file, text, barrier, index }));
    });
    if (barriers.length === 0) continue;
    must('cmake', ['--build', build, '--target', target]);
    const { passed, output } = test();
    if (!passed) throw new Error(`the tests fail with every barrier in place:\n${output}`);
    for (const { file, text, barrier, index } of barriers) {
      const copy = join(scratch, folder, file);
      writeFileSync(copy, `${text.slice(0, index)};${text.slice(index + barrier.length)}`);
      const { passed: survived } = test(file);
      writeFileSync(copy, text);
      const line = text.slice(0, index).split('\n').length;
      console.log(`${join(folder, file)}:${line}: ${survived ? 'NOT SEEN' : 'seen'} without ${barrier}`);
      if (survived) survivors++;
    }
  }
} finally {
  rmSync(scratch, { recursive: true });
}
console.log(survivors === 0 ? 'every deleted barrier was seen' : `${survivors} deleted barriers were not seen`);
process.exitCode = survivors === 0 ? 0 : 1;
