/**
 * The package as a user gets it: packed, installed into an empty folder without install scripts, then required and imported.
 * Everything happens in a temporary copy of the checkout, into which the addon built there is put as a prebuild.
 */
import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, relative, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

/** What `require('sidetune')` and `import … from 'sidetune'` must offer. */
const EXPORTS = ['Device', 'Tensor', 'ops', 'models', 'petl', 'optim', 'data'];

const SIZE_LIMIT = 15e6;
const SHIPPED =
  /^(dist|prebuilds|native|binding|scripts)\/|^(package\.json|CMakeLists\.txt|LICENSE|README\.md|CHANGELOG\.md)$/;
const NEVER_SHIPPED = /(^|\/)(node_modules|test|tests|__tests__|examples|peers|build)\/|\.test\.|\.log$|\.tgz$/;
const NETWORK_ERROR =
  /EAI_AGAIN|EAI_FAIL|ENOTFOUND|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|ENOTCACHED/;

interface Manifest {
  version: string;
  main: string;
  types: string;
  bin: Record<string, string>;
  exports: Record<string, unknown>;
}
interface Packed {
  filename: string;
  size: number;
  files: { path: string }[];
}
interface LockFile {
  packages: Record<string, { dev?: boolean }>;
}

const ROOT = resolve(__dirname, '../..');
const ADDON = join(ROOT, 'build/Release/sidetune.node');
const PREBUILD = `prebuilds/linux-${process.arch}/sidetune.glibc.node`;

const readJson = <T>(file: string): T => JSON.parse(readFileSync(file, 'utf8')) as T;
const manifest = readJson<Manifest>(join(ROOT, 'package.json'));

let folder: string;
let packed: Packed;
let consumer: string;

const execute = promisify(execFile);
const run = (command: string, args: string[], cwd: string) =>
  execute(command, args, { cwd, timeout: 240_000, maxBuffer: 64e6 });

/** All files under a folder of the checkout, relative to the checkout. */
function sources(name: string): string[] {
  return readdirSync(join(ROOT, name), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));
}

/** Copies the checkout without what is built, fetched or versioned, and puts the built addon in as the prebuild. */
function copyCheckout(target: string): void {
  const left = new Set(
    ['node_modules', '.git', 'build', 'build-sanitize', 'prebuilds'].map((name) => join(ROOT, name)),
  );
  const isTaken = (path: string) => !left.has(path) && basename(path) !== 'node_modules' && !path.endsWith('.tgz');
  mkdirSync(target);
  for (const name of readdirSync(ROOT).filter((name) => !name.startsWith('.'))) {
    if (name !== 'examples' && isTaken(join(ROOT, name))) {
      cpSync(join(ROOT, name), join(target, name), { recursive: true, filter: isTaken });
    }
  }
  cpSync(ADDON, join(target, PREBUILD));
  for (const decoy of ['node_modules/decoy/index.js', 'examples/decoy.js', 'build/Release/sidetune.node']) {
    mkdirSync(join(target, decoy, '..'), { recursive: true });
    writeFileSync(join(target, decoy), '');
  }
}

/** `npm install` of the tarball; without a network, unpacks it beside copies of the production packages in the lock file. */
async function install(tarball: string, target: string): Promise<void> {
  mkdirSync(target);
  writeFileSync(join(target, 'package.json'), JSON.stringify({ name: 'consumer', version: '1.0.0', private: true }));
  const retries = process.env.CI ? 2 : 0;
  const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', `--fetch-retries=${retries}`];
  try {
    await run('npm', ['install', ...options, tarball], target);
  } catch (error) {
    if (process.env.CI || !NETWORK_ERROR.test((error as { stderr?: string }).stderr ?? '')) throw error;
    const modules = join(target, 'node_modules');
    rmSync(modules, { recursive: true, force: true });
    mkdirSync(join(modules, 'sidetune'), { recursive: true });
    await run('tar', ['-xzf', tarball, '--strip-components=1', '-C', join(modules, 'sidetune')], target);
    for (const [path, { dev }] of Object.entries(readJson<LockFile>(join(ROOT, 'package-lock.json')).packages)) {
      if (!path || dev || !existsSync(join(ROOT, path))) continue;
      cpSync(join(ROOT, path), join(target, path), { recursive: true });
    }
  }
}

beforeAll(async () => {
  for (const needed of [ADDON, join(ROOT, 'dist')]) {
    if (!existsSync(needed)) throw new Error(`${relative(ROOT, needed)} is not built; 'npm test' builds it`);
  }
  folder = mkdtempSync(join(tmpdir(), 'sidetune-pack-'));
  const checkout = join(folder, 'checkout');
  copyCheckout(checkout);
  const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], checkout);
  packed = (JSON.parse(stdout) as [Packed])[0];
  consumer = join(folder, 'consumer');
  await install(join(folder, packed.filename), consumer);
}, 300_000);

afterAll(() => {
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** Runs a script as the user's program, with no trace of this checkout in its environment, and reads what it prints. */
async function runAsUser(script: string, file: string): Promise<unknown> {
  writeFileSync(join(consumer, file), script);
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(NODE_|npm_|VITEST|SIDETUNE_)/i.test(name)),
  );
  const { stdout } = await execute(process.execPath, [file], { cwd: consumer, env, timeout: 50_000 });
  return JSON.parse(stdout);
}

describe('the packed file', () => {
  test('holds what package.json points to, the sources of the addon, and its prebuild', () => {
    const paths = packed.files.map((file) => file.path);
    const entries = [manifest.main, manifest.types, ...Object.values(manifest.bin)].map((path) =>
      path.replace(/^\.\//, ''),
    );
    const wanted = [
      ...entries,
      'package.json',
      'LICENSE',
      'CMakeLists.txt',
      PREBUILD,
      ...sources('native'),
      ...sources('binding'),
    ];
    expect(paths).toEqual(expect.arrayContaining(wanted));
  });

  test('holds nothing else: no tests, no packages, no build folders', () => {
    const strangers = packed.files
      .map((file) => file.path)
      .filter((path) => !SHIPPED.test(path) || NEVER_SHIPPED.test(path));
    expect(strangers).toEqual([]);
  });

  test('is smaller than 15 MB', () => {
    expect(packed.size).toBeLessThan(SIZE_LIMIT);
  });
});

describe('the installed package', () => {
  test("gives its names to require('sidetune')", async () => {
    const names = await runAsUser("console.log(JSON.stringify(Object.keys(require('sidetune'))))", 'user.cjs');
    expect(names).toEqual(expect.arrayContaining(EXPORTS));
  });

  test("gives its names to import from 'sidetune', opens a device, and lets the process end", async () => {
    const script = `
      import { ${EXPORTS.join(', ')} } from 'sidetune';
      await Device.open('cpu');
      const missing = Object.entries({ ${EXPORTS.join(', ')} }).filter(([, value]) => value === undefined);
      const addons = process.report.getReport().sharedObjects.filter((path) => path.endsWith('.node'));
      console.log(JSON.stringify({ missing, addons }));`;
    const { missing, addons } = (await runAsUser(script, 'user.mjs')) as { missing: unknown[]; addons: string[] };
    expect(missing).toEqual([]);
    expect(addons.map((path) => path.split('/node_modules/').at(-1))).toContain(`sidetune/${PREBUILD}`);
  });

  test("runs a user's method written in TypeScript", async () => {
    const method = `import { petl } from 'sidetune';
      interface Options { all: boolean }
      petl.define<Options>('norms', { all: true }, { trains: (name: string) => name.includes('norm') });`;
    writeFileSync(join(consumer, 'norms.ts'), method);
    const command = ['node_modules/sidetune/dist/lib/cli/main.js', 'bench', 'units', '--no-progress', '--json', '-'];
    const args = [...command, '--methods', 'dtl', '--method', 'norms.ts'];
    const { stdout } = await execute(process.execPath, args, { cwd: consumer, timeout: 50_000 });
    const { rows } = JSON.parse(stdout) as { rows: { method: string; units: number }[] };
    expect(rows.map(({ method: name, units }) => [name, units])).toEqual([
      ['dtl', 12],
      ['norms', 25],
    ]);
  });

  test('knows its version', async () => {
    const version = await runAsUser(
      "console.log(JSON.stringify(require('sidetune/package.json').version))",
      'version.cjs',
    );
    expect(version).toBe(manifest.version);
  });
});
