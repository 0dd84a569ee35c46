// What of native/cuda runs under emulation: builds it with gcov's counters, runs the tests of the device 'cuda-emulated' and prints lines and branches of each
// file. Fails below 95 % of either, and where a line never ran that scripts/lib/cuda-uncovered.mjs does not explain.
// `node scripts/cuda-coverage.mjs [--report] [--branches] [test files]`; needs g++ and a build of the project. --report: of the tests that ran last;
// --branches: names those that were never taken, as file:line:of how many:which.
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { uncovered } from './lib/cuda-uncovered.mjs';

const { values, positionals } = parseArgs({
  options: { report: { type: 'boolean', default: false }, branches: { type: 'boolean', default: false } },
  allowPositionals: true,
});
const LEAST = 95; // per cent
const root = fileURLToPath(new URL('..', import.meta.url));
const build = join(root, 'build-coverage');
const release = join(build, 'Release');
const sources = join(root, 'native/cuda');

function run(command, args, options = {}) {
  const { status, error, stdout } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (error) throw error;
  return { status, stdout };
}
function must(command, args, options) {
  const { status, stdout } = run(command, args, options);
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${status}`);
  return stdout;
}
const filesUnder = (folder, ending) =>
  readdirSync(folder, { recursive: true })
    .filter((file) => file.endsWith(ending))
    .map((file) => join(folder, file));

mkdirSync(release, { recursive: true });
const settings = ['CMAKE_BUILD_TYPE=Release', 'SIDETUNE_COVERAGE=ON', 'SIDETUNE_CUDA=OFF'];
const definitions = [...settings, `CMAKE_LIBRARY_OUTPUT_DIRECTORY=${release}`].map((setting) => `-D${setting}`);
const quiet = { stdio: ['ignore', 'ignore', 'inherit'] };
must('cmake', ['-S', root, '-B', build, ...definitions], quiet);
must('cmake', ['--build', build, '--target', 'sidetune_cuda_emulated', '--parallel'], quiet);
copyFileSync(join(root, 'build/Release/sidetune.node'), join(release, 'sidetune.node'));

// Whether tests of a project pass. Faults that are provoked have a file of their own in the project 'all'.
function test(project, ...files) {
  const args = ['node_modules/vitest/vitest.mjs', 'run', `--project=${project}`, ...files];
  return (
    run(process.execPath, args, { env: { ...process.env, SIDETUNE_ADDON: join(release, 'sidetune.node') } }).status ===
    0
  );
}
if (!values.report) for (const file of filesUnder(build, '.gcda')) rmSync(file);
const passed =
  values.report ||
  [test('cuda-emulated', ...positionals), test('cuda-turing'), test('all', 'test/lifecycle/cuda_faults.test.ts')].every(
    Boolean,
  );

/** Branches of an instance of a line, without those that an exception takes and their other sides. */
function branchesOf(branches) {
  return branches.filter(({ throw: thrown }, i) => !thrown && !(branches[i].fallthrough && branches[i + 1]?.throw));
}

/** How many instances of a lambda a line's branches are of, one after the other: gcov tells those of functions apart, but not these. */
function instancesOf(line, lines, functions, branches) {
  if (lines.filter(({ line_number: other }) => other === line).length > 1) return 1;
  const around = functions.filter(({ start_line: first, end_line: last }) => first <= line && line <= last);
  const start = Math.max(...around.map(({ start_line: first }) => first));
  const count = around.filter(({ start_line: first }) => first === start).length;
  return count > 0 && branches % count === 0 ? count : 1;
}

// File -> { lines: Map of line -> count, branches: Map of key -> count }. A line of a template has an instance for each use: it ran if one of them did. Their
// branches are counted together where there are equally many.
const files = new Map();
for (const data of filesUnder(build, '.gcda')) {
  const text = must('gcov', ['--json-format', '--stdout', '--branch-probabilities', data], {
    cwd: build,
    stdio: ['ignore', 'pipe', 'ignore'],
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
  });
  for (const { files: parts } of text.trim().split('\n').map(JSON.parse)) {
    for (const { file, lines, functions } of parts) {
      const path = resolve(build, file);
      if (!path.startsWith(sources)) continue;
      if (!files.has(path)) files.set(path, { lines: new Map(), branches: new Map() });
      const known = files.get(path);
      const add = (map, key, count) => map.set(key, (map.get(key) ?? 0) + count);
      for (const { line_number: line, count, branches, function_name: name } of lines) {
        if (/^_GLOBAL__|static_initialization/.test(name ?? '')) continue;
        add(known.lines, line, count);
        const own = branchesOf(branches);
        const period = own.length / instancesOf(line, lines, functions, own.length);
        for (const [i, branch] of own.entries()) add(known.branches, `${line}:${period}:${i % period}`, branch.count);
      }
    }
  }
}

const share = (map) => ({ ran: [...map.values()].filter((count) => count > 0).length, all: map.size });
const percent = ({ ran, all }) => (all === 0 ? '' : ((100 * ran) / all).toFixed(1));
const total = { lines: { ran: 0, all: 0 }, branches: { ran: 0, all: 0 } };
const unexplained = [];
const explained = new Set();
const row = (...cells) => console.log(cells.map((cell, i) => (i === 0 ? cell.padEnd(28) : cell.padStart(16))).join(''));
row('', 'lines', '%', 'branches', '%');
for (const [path, known] of [...files].sort()) {
  const shares = { lines: share(known.lines), branches: share(known.branches) };
  for (const kind of ['lines', 'branches']) {
    total[kind].ran += shares[kind].ran;
    total[kind].all += shares[kind].all;
  }
  const { lines, branches } = shares;
  row(
    basename(path),
    `${lines.ran}/${lines.all}`,
    percent(lines),
    `${branches.ran}/${branches.all}`,
    percent(branches),
  );
  const text = readFileSync(path, 'utf8').split('\n');
  for (const [line, count] of [...known.lines].sort(([a], [b]) => a - b)) {
    if (count > 0) continue;
    const reason = uncovered.find(
      ({ file, part }) =>
        file === basename(path) && (part === '}' ? text[line - 1].trim() === part : text[line - 1].includes(part)),
    );
    if (reason) explained.add(reason);
    else unexplained.push(`${basename(path)}:${line}: ${text[line - 1].trim()}`);
  }
}
row(
  'all',
  `${total.lines.ran}/${total.lines.all}`,
  percent(total.lines),
  `${total.branches.ran}/${total.branches.all}`,
  percent(total.branches),
);

if (values.branches) {
  for (const [path, { branches }] of files)
    for (const [key, count] of branches) if (count === 0) console.log(`${basename(path)}:${key}`);
}
for (const line of unexplained) console.log(`never ran: ${line}`);
for (const reason of uncovered)
  if (!explained.has(reason)) console.log(`ran after all: ${reason.file}: ${reason.part}`);
const enough = Object.values(total).every((share) => Number(percent(share)) >= LEAST);
process.exitCode = passed && enough && unexplained.length === 0 ? 0 : 1;
