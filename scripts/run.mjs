// `npm start` and `npm test`: brings a fresh machine to the point where the command can run, then runs it.
// Only Node's own modules may be used here: this runs before anything is installed.
import { renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ensurePackages } from './lib/packages.mjs';
import { hashSources, unlessStamped } from './lib/stamp.mjs';
import { exitWith, ROOT, report, run, runLogged, step, withLock } from './lib/steps.mjs';
import { checkMachine, ensureSystemPackages } from './lib/system.mjs';

const EXAMPLE = 'examples/emoji';
const COMMANDS = {
  start: [`dist/${EXAMPLE}/main.js`],
  test: ['node_modules/vitest/vitest.mjs', 'run'],
};

const NATIVE_SOURCES = [
  'scripts/build-native.mjs',
  'CMakeLists.txt',
  'cmake',
  'native',
  'binding',
  'test/native',
  'test/cuda-emulation',
];
const TYPESCRIPT_SOURCES = ['tsconfig.json', 'tsconfig.build.json', 'lib', 'bench', EXAMPLE];

function buildNative() {
  const hash = hashSources([...NATIVE_SOURCES, 'package-lock.json'], [process.version, process.arch]);
  return unlessStamped('native', hash, 'build/Release/sidetune.node', () =>
    runLogged(process.execPath, ['scripts/build-native.mjs'], 'native'),
  );
}

/** Compiles into build/dist and moves that over dist, so that dist never holds half a build or files of sources since removed. */
function buildTypeScript() {
  const hash = hashSources([...TYPESCRIPT_SOURCES, 'package-lock.json']);
  return unlessStamped('typescript', hash, 'dist', async () => {
    const fresh = join(ROOT, 'build/dist');
    rmSync(fresh, { recursive: true, force: true });
    const tsc = 'node_modules/typescript/bin/tsc -p tsconfig.build.json --pretty false --outDir'.split(' ');
    await runLogged(process.execPath, [...tsc, fresh], 'typescript');
    rmSync(join(ROOT, 'dist'), { recursive: true, force: true });
    renameSync(fresh, join(ROOT, 'dist'));
  });
}

async function prepare() {
  checkMachine();
  await step('system libraries', ensureSystemPackages);
  await step('npm packages', () => ensurePackages('npm', '.'));
  // The pictures: the main job trains on them, and a test holds their split to its rules.
  await step('example packages', () => ensurePackages('npm-example', EXAMPLE));
  await step('native build', buildNative);
  await step('TypeScript build', buildTypeScript);
}

const [command, ...args] = process.argv.slice(2);
if (!Object.hasOwn(COMMANDS, command ?? '')) {
  console.error('usage: node scripts/run.mjs start|test [arguments for the example or for vitest]');
  process.exitCode = 2;
} else {
  try {
    await withLock(() => prepare());
    exitWith(await run(process.execPath, [...COMMANDS[command], ...args]));
  } catch (error) {
    exitWith(report(error));
  }
}
