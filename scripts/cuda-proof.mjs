// Compiles native/cuda with nvcc for every generation of GPUs and fails on warnings and on register spills. No GPU is needed.
// `node scripts/cuda-proof.mjs` writes docs/cuda-kernels.md, what each kernel takes; `--check` compares instead.
// Without nvcc it says 'skipped'. Files that have not changed since they last passed are not compiled again (build/cuda-proof).
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, dirname, join } from 'node:path';
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

/** The toolkit's own include folder, as nvcc itself names it. */
function includeFolderOf(nvcc) {
  const path = nvcc.includes('/') ? nvcc : execFileSync('sh', ['-c', 'command -v nvcc'], { encoding: 'utf8' }).trim();
  return join(dirname(realpathSync(path)), '../include');
}

/** The folder of cublasLt.h, or undefined where the toolkit's own is enough; fetches it once where there is none. */
async function findCublas(nvcc) {
  const holds = (folder) => existsSync(join(folder, 'cublasLt.h'));
  if (process.env.CUBLAS_ROOT && holds(join(process.env.CUBLAS_ROOT, 'include')))
    return join(process.env.CUBLAS_ROOT, 'include');
  if (holds(includeFolderOf(nvcc))) return undefined;
  if (holds(FETCHED)) return FETCHED;
  const python = ['python3', 'python'].find(hasCommand);
  if (!python)
    throw new SetupError('cublasLt.h was not found, nor Python to fetch it with; CUBLAS_ROOT names its place.');
  const wheels = join(FOLDER, 'wheel');
  rmSync(wheels, { recursive: true, force: true });
  process.stderr.write(`fetching the headers of ${CUBLAS}\n`);
  try {
    const pip = ['-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:', '--dest', wheels, CUBLAS];
    await runLogged(python, pip, 'cublas');
    const script = `
import os, sys, zipfile
wheels, to = sys.argv[1:]
os.makedirs(to, exist_ok=True)
for wheel in os.listdir(wheels):
    with zipfile.ZipFile(os.path.join(wheels, wheel)) as archive:
        for name in archive.namelist():
            if name.endswith('.h'):
                with open(os.path.join(to, os.path.basename(name)), 'wb') as file:
                    file.write(archive.read(name))
`;
    await runLogged(python, ['-c', script, wheels, FETCHED], 'cublas-headers');
  } finally {
    rmSync(wheels, { recursive: true, force: true }); // some hundred megabytes
  }
  if (!holds(FETCHED)) throw new SetupError(`${CUBLAS} holds no cublasLt.h; CUBLAS_ROOT names its place.`);
  return FETCHED;
}

/** What git knows or would add: nothing that it ignores. */
function listFiles(pattern) {
  const args = ['ls-files', '--cached', '--others', '--exclude-standard', '--', pattern];
  const names = execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).split('\n').filter(Boolean);
  return [...new Set(names)].filter((name) => existsSync(join(ROOT, name))).sort();
}

/** A file and all of ours that it includes, at whatever remove. */
function closure(file, found = new Set()) {
  if (found.has(file)) return found;
  found.add(file);
  for (const [, name] of read(file).matchAll(/^\s*#include ["<](.+)[">]/gm)) {
    const places = [join(dirname(file), name), name, join('native/cuda/ptx', name)];
    const place = places.find((path) => existsSync(join(ROOT, path)));
    if (place) closure(place, found);
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
  for (const source of closure(file)) hash.update(source).update(read(source));
  const key = hash.digest('hex');
  const stem = basename(file, '.cu');
  const record = join(FOLDER, `${stem}.json`);
  if (existsSync(record)) {
    const before = JSON.parse(readFileSync(record, 'utf8'));
    if (before.key === key) return { file, compiled: true, kernels: before.kernels, problems: [] };
  }
  const object = join(FOLDER, `${stem}.o`);
  const args = [...FLAGS, ...(include ? [`-I${include}`] : []), '-c', file, '-o', object];
  try {
    await runLogged(nvcc, args, `cuda-${stem}`);
  } catch (error) {
    if (!error.log) throw error; // stopped, or not started
    return { file, compiled: false, kernels: [], problems: [readFileSync(error.log, 'utf8').trim()] };
  } finally {
    rmSync(object, { force: true });
  }
  const output = readFileSync(join(LOGS, `cuda-${stem}.log`), 'utf8');
  const kernels = parse(output);
  const problems = output.split('\n').filter((line) => /\bwarning\b/i.test(line));
  for (const { symbol, target, spilled } of kernels)
    if (spilled > 0) problems.push(`${symbol} spills ${spilled} bytes on sm_${target}`);
  if (problems.length === 0) writeFileSync(record, JSON.stringify({ key, kernels }));
  return { file, compiled: true, kernels, problems };
}

/** Kernel names without namespaces and arguments. */
function shortNames(symbols) {
  const names = execFileSync('c++filt', { input: symbols.join('\n'), encoding: 'utf8' })
    .trimEnd()
    .split('\n');
  return new Map(symbols.map((symbol, i) => [symbol, shortName(names[i])]));
}

function shortName(name) {
  const text = name
    .replace(/\(anonymous namespace\)::|sidetune::|cuda::|^void /g, '')
    .replaceAll('__nv_bfloat16', 'bf16')
    .replaceAll('unsigned char', 'u8')
    .replaceAll('(bool)1', 'true')
    .replaceAll('(bool)0', 'false')
    .replaceAll('> >', '>>');
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

async function main() {
  const { values } = parseArgs({ options: { check: { type: 'boolean', default: false } } });
  const nvcc = findNvcc();
  if (!nvcc) {
    console.log('cuda-proof: skipped, nvcc is not installed here');
    return 0;
  }
  mkdirSync(FOLDER, { recursive: true });
  let include;
  try {
    include = await findCublas(nvcc);
  } catch (error) {
    if (process.env.CI === 'true' || !(error instanceof SetupError)) throw error;
    console.log(`cuda-proof: skipped. ${error.message}`);
    return 0;
  }
  const version = execFileSync(nvcc, ['--version'], { encoding: 'utf8' });
  const release = version.match(/release ([\d.]+)/)?.[1] ?? 'of an unknown release';

  const tools = version + FLAGS.join(' ') + readFileSync(join(include ?? includeFolderOf(nvcc), 'cublasLt.h'), 'utf8');
  const results = await inParallel(listFiles('native/cuda/*.cu'), (file) => prove(file, nvcc, include, tools));

  const wrong = results.filter(({ problems }) => problems.length > 0);
  for (const { file, problems } of wrong) console.error(`${file}:\n${demangle(problems.join('\n'))}\n`);
  const names = wrong.map(({ file }) => basename(file)).join(', ');
  if (results.some(({ compiled }) => !compiled)) {
    console.error(`error: nvcc ${release} does not compile all of ${names}`);
    return 1;
  }
  const count = new Set(results.flatMap(({ kernels }) => kernels.map(({ symbol }) => symbol))).size;
  const targets = TARGETS.map((target) => `sm_${target}`).join(' ');
  const verdict = wrong.length === 0 ? 'no warnings, no spills' : `fault with ${names}`;
  console.log(`cuda-proof: nvcc ${release}, ${results.length} files, ${count} kernels, ${targets}: ${verdict}`);
  const status = wrong.length === 0 ? 0 : 1;

  const table = tableOf(results, release);
  if (!values.check) {
    writeFileSync(join(ROOT, TABLE), table); // spills are in it, too
    return status;
  }
  const written = existsSync(join(ROOT, TABLE)) ? read(TABLE) : '';
  const made = written.match(/with nvcc (\S+);/)?.[1];
  if (made && made !== release) {
    console.log(`cuda-proof: ${TABLE} is nvcc ${made}'s, which gives out registers in another way; not compared`);
    return status;
  }
  if (written === table) return status;
  console.error(`error: ${TABLE} is stale: run node scripts/cuda-proof.mjs`);
  return 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.exitCode = report(error);
}
