// Compiles native/cuda with nvcc for every generation of GPUs and fails on warnings and on register spills. No GPU is needed.
// `node scripts/cuda-proof.mjs` writes docs/cuda-kernels.md, what each kernel takes; `--check` compares instead.
// Without nvcc it says 'skipped'; without cublasLt.h, which it fetches where it can, it leaves out the files that include it and says which.
// Files that have not changed since they last passed are not compiled again (build/cuda-proof).
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { LOGS, ROOT, report, runLogged, SetupError } from './lib/steps.mjs';
import { hasCommand } from './lib/system.mjs';

const TARGETS = [75, 80, 86, 89, 90, 100, 120];
const FLAGS = [
  ...['-std=c++17', '-O3', '--expt-relaxed-constexpr', '-I.', '-Inative/cuda/ptx'],
  ...['-Xptxas', '-v,-warn-spills', '-Xcompiler', '-Wall,-Wextra,-fPIC'],
  ...TARGETS.flatMap((target) => ['-gencode', `arch=compute_${target},code=sm_${target}`]),
];
const CUBLAS = 'nvidia-cublas==13.1.1.3'; // for its headers alone
const HEADER = 'cublasLt.h';
const TABLE = 'docs/cuda-kernels.md';
const FOLDER = join(ROOT, 'build/cuda-proof');
const FETCHED = join(ROOT, 'build/cublas');

const read = (file) => readFileSync(join(ROOT, file), 'utf8');

function findNvcc() {
  const folders = [process.env.CUDA_PATH && join(process.env.CUDA_PATH, 'bin'), '/usr/local/cuda/bin'];
  if (folders[0] && existsSync(join(folders[0], 'nvcc'))) return join(folders[0], 'nvcc');
  if (hasCommand('nvcc')) return 'nvcc';
  return existsSync(join(folders[1], 'nvcc')) ? join(folders[1], 'nvcc') : undefined;
}

/** The folder in which nvcc by itself finds cublasLt.h, if it does. */
function ownFolder(nvcc) {
  const probe = join(FOLDER, 'probe.cu');
  writeFileSync(probe, `#include <${HEADER}>\n`);
  const { status, stdout } = spawnSync(nvcc, ['-M', probe], { encoding: 'utf8' });
  rmSync(probe);
  const path = status === 0 && stdout.split(/[\s\\]+/).find((word) => basename(word) === HEADER);
  return path ? dirname(path) : undefined;
}

/** The folder of cublasLt.h; fetches it once where there is none. */
async function findCublas(nvcc) {
  const holds = (folder) => existsSync(join(folder, HEADER));
  const named = process.env.CUBLAS_ROOT && join(process.env.CUBLAS_ROOT, 'include');
  if (named && holds(named)) return named;
  const own = ownFolder(nvcc);
  if (own) return own;
  if (holds(FETCHED)) return FETCHED;
  const python = ['python3', 'python'].find(hasCommand);
  if (!python)
    throw new SetupError(`${HEADER} was not found, nor Python to fetch it with; CUBLAS_ROOT names its place.`);
  const wheels = join(FOLDER, 'wheel');
  const headers = join(wheels, 'headers');
  rmSync(wheels, { recursive: true, force: true });
  process.stderr.write(`fetching the headers of ${CUBLAS}\n`);
  try {
    const pip = ['-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:', '--no-cache-dir', '--retries', '1'];
    await runLogged(python, [...pip, '--dest', wheels, CUBLAS], 'cublas');
    const script = `
import os, sys, zipfile
wheels, to = sys.argv[1:]
names = os.listdir(wheels)
os.makedirs(to)
for wheel in names:
    with zipfile.ZipFile(os.path.join(wheels, wheel)) as archive:
        for name in archive.namelist():
            if name.endswith('.h'):
                with open(os.path.join(to, os.path.basename(name)), 'wb') as file:
                    file.write(archive.read(name))
`;
    await runLogged(python, ['-c', script, wheels, headers], 'cublas-headers');
    if (!holds(headers)) throw new SetupError(`${CUBLAS} holds no ${HEADER}; CUBLAS_ROOT names its place.`);
    rmSync(FETCHED, { recursive: true, force: true });
    renameSync(headers, FETCHED);
  } finally {
    rmSync(wheels, { recursive: true, force: true }); // some hundred megabytes
  }
  return FETCHED;
}

/** What git knows or would add: nothing that it ignores. */
function listFiles(pattern) {
  const args = ['ls-files', '--cached', '--others', '--exclude-standard', '--', pattern];
  const names = execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).split('\n').filter(Boolean);
  return [...new Set(names)].filter((name) => existsSync(join(ROOT, name))).sort();
}

/** A file and all that it includes, at whatever remove: ours by path, others as they are written. */
function closure(file, found = new Set()) {
  if (found.has(file)) return found;
  found.add(file);
  for (const [, name] of read(file).matchAll(/^\s*#include ["<](.+)[">]/gm)) {
    const places = [join(dirname(file), name), name, join('native/cuda/ptx', name)];
    const place = places.find((path) => existsSync(join(ROOT, path)));
    if (place) closure(place, found);
    else found.add(name);
  }
  return found;
}

/** What ptxas says of each function of each target. */
function parse(text) {
  const kernels = [];
  let entry;
  for (const line of text.split('\n')) {
    const begin = line.match(/Compiling entry function '(\S+)' for 'sm_(\d+)a?'/);
    if (begin) entry = { symbol: begin[1], target: Number(begin[2]), registers: 0, shared: 0, stack: 0, spilled: 0 };
    const memory = line.match(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/);
    if (memory && entry) {
      // Functions that a kernel calls are told of before it ends.
      entry.stack = Math.max(entry.stack, Number(memory[1]));
      entry.spilled += Number(memory[2]) + Number(memory[3]);
    }
    const used = line.match(/Used (\d+) registers/);
    if (!used || !entry) continue;
    entry.registers = Number(used[1]);
    entry.shared = Number(line.match(/(\d+) bytes smem/)?.[1] ?? 0);
    kernels.push(entry);
    entry = undefined;
  }
  return kernels;
}

/** Compiles a file, unless it passed before as it is: its kernels, and what is wrong. */
async function prove(file, nvcc, include, tools) {
  const hash = createHash('sha256').update(tools);
  for (const name of closure(file)) {
    const source = name === HEADER ? join(include, name) : join(ROOT, name);
    hash.update(`\0${name}\0`).update(existsSync(source) ? readFileSync(source) : '');
  }
  const key = hash.digest('hex');
  const stem = basename(file, '.cu');
  const record = join(FOLDER, `${stem}.json`);
  if (existsSync(record)) {
    const before = JSON.parse(readFileSync(record, 'utf8'));
    if (before.key === key) return { file, compiled: true, cached: true, kernels: before.kernels, problems: [] };
  }
  const object = join(FOLDER, `${stem}.o`);
  const args = [...FLAGS, ...(include ? ['-isystem', include] : []), '-c', file, '-o', object];
  const start = performance.now();
  try {
    await runLogged(nvcc, args, `cuda-${stem}`);
  } catch (error) {
    if (!error.log) throw error; // stopped, or not started
    return { file, compiled: false, kernels: [], problems: [readFileSync(error.log, 'utf8').trim()] };
  } finally {
    rmSync(object, { force: true });
  }
  process.stderr.write(`${file}: ${((performance.now() - start) / 1000).toFixed(1)} s\n`);
  const output = readFileSync(join(LOGS, `cuda-${stem}.log`), 'utf8');
  const kernels = parse(output);
  const spilling = kernels.filter(({ spilled }) => spilled > 0);
  const warnings = output.split('\n').filter((line) => /\bwarning\b(?!-number)/i.test(line));
  // ptxas warns of spills, too, but names no target.
  const told = (line) =>
    spilling.some(({ symbol }) => line.includes(`spilled to local memory in function '${symbol}'`));
  const problems = [...new Set(warnings.filter((line) => !told(line)))]; // the front end warns once a target
  for (const { symbol, target, spilled } of spilling)
    problems.push(`${symbol} spills ${spilled} bytes on sm_${target}`);
  if (problems.length === 0) writeFileSync(record, JSON.stringify({ key, kernels }));
  return { file, compiled: true, kernels, problems };
}

const demangle = (text) => execFileSync('c++filt', { input: text, encoding: 'utf8' });

/** Kernel names without namespaces and arguments. */
function shortNames(symbols) {
  const names = demangle(symbols.join('\n')).trimEnd().split('\n');
  return new Map(symbols.map((symbol, i) => [symbol, shortName(names[i])]));
}

function shortName(name) {
  const text = name
    .replace(/\(anonymous namespace\)::|sidetune::|cuda::|^void /g, '')
    .replaceAll('__nv_bfloat16', 'bf16')
    .replaceAll('unsigned char', 'u8')
    .replaceAll('(bool)1', 'true')
    .replaceAll('(bool)0', 'false')
    .replace(/> (?=>)/g, '>');
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === '<') depth++;
    else if (text[i] === '>') depth--;
    else if (text[i] === '(' && depth === 0) return text.slice(0, i);
  }
  return text;
}

function tableOf(results, release) {
  const names = shortNames([...new Set(results.flatMap(({ kernels }) => kernels.map(({ symbol }) => symbol)))]);
  const lines = [
    '# What the CUDA kernels take',
    '',
    `Made by \`node scripts/cuda-proof.mjs\` with nvcc ${release}; do not edit. Registers of a thread on each target (compute capability), and static shared memory, stack and`,
    'spilled registers in bytes: the most of all targets. Dynamic shared memory is asked for at the launch.',
  ];
  for (const { file, kernels } of results) {
    const rows = new Map();
    for (const kernel of kernels) {
      const row = rows.get(kernel.symbol) ?? { registers: {}, shared: 0, stack: 0, spilled: 0 };
      row.registers[kernel.target] = kernel.registers;
      for (const field of ['shared', 'stack', 'spilled']) row[field] = Math.max(row[field], kernel[field]);
      rows.set(kernel.symbol, row);
    }
    if (rows.size === 0) continue;
    const cells = (list) => `| ${list.join(' | ')} |`;
    lines.push('', `## ${basename(file)}`, '');
    lines.push(cells(['kernel', ...TARGETS.map((target) => `sm_${target}`), 'shared', 'stack', 'spilled']));
    lines.push(cells(['---', ...Array(TARGETS.length + 3).fill('--:')]));
    const named = [...rows].map(([symbol, row]) => [names.get(symbol), row]);
    named.sort(([a, x], [b, y]) => (a < b ? -1 : a > b ? 1 : JSON.stringify(x) < JSON.stringify(y) ? -1 : 1));
    for (const [name, { registers, shared, stack, spilled }] of named)
      lines.push(cells([`\`${name}\``, ...TARGETS.map((target) => registers[target] ?? ''), shared, stack, spilled]));
  }
  return `${lines.join('\n')}\n`;
}

/** Runs `work` on all items, as many at once as there are cores. */
async function inParallel(items, work) {
  const results = [];
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const i = next++;
      results[i] = await work(items[i]);
    }
  };
  await Promise.all(Array.from({ length: Number(process.env.JOBS ?? availableParallelism()) }, worker));
  return results;
}

/** The table's parts by the names of their files; what is above the first by ''. */
function partsOf(table) {
  return new Map(table.split('\n## ').map((part, i) => (i === 0 ? ['', part] : [part.split('\n', 1)[0], part])));
}

/** Whether what was compiled is in the checked-in table as it is; says where it is not. */
function isInTable(table, written, leftOut) {
  const [now, before] = [partsOf(table), partsOf(written)];
  const names = [...new Set([...now.keys(), ...before.keys()])].filter((name) => !leftOut.includes(name));
  const stale = names.filter((name) => now.get(name)?.trimEnd() !== before.get(name)?.trimEnd());
  if (stale.length === 0) return true;
  const where = stale.map((name) => name || 'its head').join(', ');
  console.error(`error: ${TABLE} is stale (${where}): run node scripts/cuda-proof.mjs`);
  return false;
}

async function main() {
  const { values } = parseArgs({ options: { check: { type: 'boolean', default: false } } });
  const nvcc = findNvcc();
  if (!nvcc) {
    console.log('cuda-proof: skipped, nvcc is not installed here');
    return 0;
  }
  const { status: failed, stdout: version } = spawnSync(nvcc, ['--version'], { encoding: 'utf8' });
  if (failed !== 0) throw new SetupError(`${nvcc} is there, but does not run.`);
  const release = version.match(/release ([\d.]+)/)?.[1] ?? 'of an unknown release';
  mkdirSync(FOLDER, { recursive: true });
  let files = listFiles('native/cuda/*.cu');
  let include;
  let leftOut = [];
  try {
    include = await findCublas(nvcc);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    const log = error.log ? ` (${relative(ROOT, error.log)})` : '';
    console.log(`cuda-proof: ${error.message}${log}`);
    leftOut = files.filter((file) => closure(file).has(HEADER));
    files = files.filter((file) => !leftOut.includes(file));
  }
  const tools = version + FLAGS.join(' ');
  const results = await inParallel(files, (file) => prove(file, nvcc, include, tools));

  const wrong = results.filter(({ problems }) => problems.length > 0);
  for (const { file, problems } of wrong) console.error(`${file}:\n${demangle(problems.join('\n'))}\n`);
  const names = wrong.map(({ file }) => basename(file)).join(', ');
  if (results.some(({ compiled }) => !compiled)) {
    console.error(`error: nvcc ${release} does not compile all of ${names}`);
    return 1;
  }
  const count = results.reduce((sum, { kernels }) => sum + new Set(kernels.map(({ symbol }) => symbol)).size, 0);
  const targets = TARGETS.map((target) => `sm_${target}`).join(' ');
  const verdict = wrong.length === 0 ? 'no warnings, no spills' : `fault with ${names}`;
  const fresh = results.filter(({ cached }) => !cached).length;
  const compiled = `${files.length} files (${fresh} compiled now, ${files.length - fresh} unchanged since they passed here)`;
  console.log(`cuda-proof: nvcc ${release}, ${compiled}, ${count} kernels, ${targets}: ${verdict}`);
  if (leftOut.length > 0)
    console.log(`cuda-proof: left out for want of ${HEADER}: ${leftOut.map((file) => basename(file)).join(', ')}`);
  const status = wrong.length === 0 ? 0 : 1;

  const table = tableOf(results, release);
  if (!values.check) {
    if (leftOut.length === 0)
      writeFileSync(join(ROOT, TABLE), table); // spills are in it, too
    else console.error(`error: ${TABLE} was not written, as files were left out`);
    return leftOut.length === 0 ? status : 1;
  }
  const written = existsSync(join(ROOT, TABLE)) ? read(TABLE) : '';
  const made = written.match(/with nvcc (\S+);/)?.[1];
  if (made && made !== release) {
    console.log(`cuda-proof: ${TABLE} is nvcc ${made}'s, which gives out registers in another way; not compared`);
    return status;
  }
  const same = isInTable(
    table,
    written,
    leftOut.map((file) => basename(file)),
  );
  return same ? status : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.exitCode = report(error);
}
