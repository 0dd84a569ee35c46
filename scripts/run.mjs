// `npm start`, `npm test` and `npm run bench:peers`: brings a fresh machine to the point where the command can run, then runs it.
// Only Node's own modules may be used here: this runs before anything is installed.
import { renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ensurePackages } from './lib/packages.mjs';
import { hashSources, unlessStamped } from './lib/stamp.mjs';
import { exitWith, ROOT, report, run, runLogged, step, withLock } from './lib/steps.mjs';
import { checkMachine, ensureSystemPackages } from './lib/system.mjs';

const EXAMPLE = 'examples/emoji';
const PEERS = 'bench/peers';
const COMMANDS = {
  start: [`dist/${EXAMPLE}/main.js`],
  test: ['node_modules/vitest/vitest.mjs', 'run'],
  'bench:peers': [`dist/${PEERS}/main.js`],
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
const TYPESCRIPT_SOURCES = ['tsconfig.json', 'tsconfig.build.json', 'lib', 'bench', EXAMPLE, 'examples/custom-method'];

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

async function prepare(command) {
  checkMachine();
  await step('system libraries', ensureSystemPackages);
  await step('npm packages', () => ensurePackages('npm', '.'));
  if (command === 'bench:peers') {
    await step('peer packages', () => ensurePackages('npm-peers', PEERS));
  } else {
    // The pictures: the main job trains on them, and a test holds their split to its rules.
    await step('example packages', () => ensurePackages('npm-example', EXAMPLE));
  }
  await step('native build', buildNative);
  await step('TypeScript build', buildTypeScript);
}

const [command, ...args] = process.argv.slice(2);
if (!Object.hasOwn(COMMANDS, command ?? '')) {
  console.error(
    'usage: node scripts/run.mjs start|test|bench:peers [arguments for the example, for vitest or for the bench]',
  );
  process.exitCode = 2;
} else {
  try {
    await withLock(() => prepare(command));
    exitWith(await run(process.execPath, [...COMMANDS[command], ...args]));
  } catch (error) {
    exitWith(report(error));
  }
}
