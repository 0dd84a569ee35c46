/** The layout rule of docs/ARCHITECTURE.md, executed: so the house cannot drift into twelve-thousand-line files. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const root = path.join(__dirname, '..');
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');

const skipped = /(^|\/)(node_modules|fixtures)$|^examples\/emoji\/(data|runs)$/;
function filesUnder(folder: string): string[] {
  return readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const file = `${folder}/${entry.name}`;
    if (!entry.isDirectory()) return [file];
    return skipped.test(file) ? [] : filesUnder(file);
  });
}

const sources = ['native', 'binding', 'lib', 'bench', 'test', 'scripts', 'examples']
  .flatMap(filesUnder)
  .filter((file) => /\.(h|cc|cuh|cu|cmake|ts|mts|mjs|cjs|def|txt|sh|py|proto)$/.test(file));
const native = sources.filter((file) => /^(native|binding)\//.test(file));

/** Kernels of each family, from the one list. */
const families = new Map<string, string[]>();
for (const [, family, kernel] of read('native/kernels.def').matchAll(/^KERNEL\((\w+), (\w+)\)$/gm)) {
  families.set(family!, [...(families.get(family!) ?? []), kernel!]);
}

// C++ without comments and texts, line by line.
const codeOf = (file: string): string =>
  read(file)
    .replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
    .replace(/"(\\.|[^"\\\n])*"/g, '""');
const stemOf = (file: string): string => path.basename(file).replace(/\..*$/, '');

describe('each kernel family', () => {
  const floors = [
    (family: string) => `native/${family}.h`,
    (family: string) => `native/cpu/${family}.cc`,
    (family: string) => `native/cuda/${family}.cu`,
    (family: string) => `binding/${family}.cc`,
    (family: string) => `lib/ops/${family}.ts`,
    (family: string) => `test/reference/${family}.ts`,
    (family: string) => `test/ops/${family}.test.ts`,
    (family: string) => `bench/kernels/${family}.ts`,
  ];

  it('is in the list', () => {
    expect(families.size).toBeGreaterThan(10);
  });

  it.each([...families.keys()])('%s has a file on every floor', (family) => {
    expect(floors.map((floor) => floor(family)).filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
  });

  it.each([...families.keys()])('%s is exported by lib/ops/index.ts', (family) => {
    expect(read('lib/ops/index.ts')).toContain(`from './${family}';`);
  });

  it.each([...families])('binding/%s.cc holds one BIND line for each kernel and nothing else', (family, kernels) => {
    const lines = read(`binding/${family}.cc`).split('\n').filter(Boolean);
    const includes = [`#include "native/${family}.h"`, '#include "kernel.h"'];
    expect(lines).toEqual([...includes, ...kernels.map((kernel) => `SIDETUNE_BIND(${kernel}, ${family})`)]);
  });

  it('has no file without a line in the list', () => {
    const made = filesUnder('lib/ops')
      .map(stemOf)
      .filter((stem) => stem !== 'index');
    expect(made.filter((stem) => !families.has(stem))).toEqual([]);
    for (const [floor, folder] of [
      ['test/ops', '.test.ts'],
      ['bench/kernels', '.ts'],
    ] as const) {
      const stems = filesUnder(floor)
        .filter((file) => file.endsWith(folder))
        .map(stemOf);
      expect(stems.filter((stem) => !families.has(stem))).toEqual([]);
    }
  });
});

describe('in native/ and binding/ only kernels.def names a foreign family', () => {
  const foreign = native.filter((file) => /\.(h|cc|cuh|cu)$/.test(file));
  /** Families that are calls of other ones, and nothing else. */
  const builtOn: Record<string, readonly string[]> = { mlp: ['linear', 'pool'] };

  it.each([...families])('%s', (family, kernels) => {
    const names = new RegExp(`\\b(${kernels.join('|')})\\b`);
    const includes = new RegExp(`#include ".*\\b${family}\\.h"`);
    // A family may have several files: attention_batched.cu.
    const others = foreign.filter(
      (file) =>
        stemOf(file) !== family && !stemOf(file).startsWith(`${family}_`) && !builtOn[stemOf(file)]?.includes(family),
    );
    expect(others.filter((file) => names.test(codeOf(file)) || includes.test(read(file)))).toEqual([]);
  });
});

describe('sources', () => {
  it('have at most 600 lines', () => {
    expect(sources.filter((file) => read(file).split('\n').length > 601)).toEqual([]);
  });

  it('name no place of a machine', () => {
    const place = /(?<![\w.}])\/(?:home|root|work|Users|tmp)\/\w/;
    const texts = [...sources, ...filesUnder('docs'), 'README.md', 'package.json', 'CMakeLists.txt'];
    expect(texts.filter((file) => place.test(read(file)))).toEqual([]);
  });

  it('of tests skip nothing', () => {
    const tests = sources.filter((file) => /^test\/.*\.ts$/.test(file));
    expect(tests.length).toBeGreaterThan(30);
    expect(tests.filter((file) => /\b(?:it|test|describe|suite)\.(?:skip|only|todo|fails)\b/.test(read(file)))).toEqual(
      [],
    );
  });

  it('of CUDA are the same text for nvcc and for the emulation', () => {
    const cuda = native.filter((file) => /^native\/cuda\/.*\.cuh?$/.test(file));
    expect(cuda.length).toBeGreaterThan(10);
    const ports = cuda.filter((file) => !file.startsWith('native/cuda/ptx/')); // that folder has a twin in test/cuda-emulation/include
    expect(ports.filter((file) => /^\s*#\s*(if|ifdef|ifndef)\b/m.test(read(file)))).toEqual([]);
    expect(ports.filter((file) => /\basm\b/.test(codeOf(file)))).toEqual([]);
    expect(cuda.filter((file) => read(file).includes('<<<'))).toEqual([]); // one function launches
    expect(cuda.filter((file) => /\b__shared__\b/.test(codeOf(file)))).toEqual(['native/cuda/shared.cuh']);
    expect(cuda.filter((file) => /\b__(shfl|ballot|any_sync|all_sync)/.test(codeOf(file)))).toEqual([
      'native/cuda/warp.cuh',
    ]);
    expect(cuda.filter((file) => /\bcooperative_groups\b|\batomicAdd\b/.test(codeOf(file)))).toEqual([]);
  });

  it('load the addon in one place', () => {
    const loads = sources.filter((file) => /^(lib|bench)\//.test(file) && /node-gyp-build|\.node\b/.test(read(file)));
    expect(loads).toEqual(['lib/native.ts']);
  });

  it('leave no work for later in comments', () => {
    const later = new RegExp('\\b(TO' + 'DO|FIX' + 'ME|XX' + 'X)\\b');
    expect(sources.filter((file) => later.test(read(file)))).toEqual([]);
  });
});

describe('package.json', () => {
  const manifest = JSON.parse(read('package.json'));

  it('points to compiled files that have a source', () => {
    const paths = JSON.stringify([manifest.main, manifest.types, manifest.exports, manifest.bin]).match(
      /\.\/dist\/[^"]+/g,
    )!;
    expect(paths.length).toBeGreaterThanOrEqual(4);
    const source = (file: string): string => file.replace('./dist/', '').replace(/(\.d\.ts|\.js)$/, '.ts');
    expect(paths.filter((file) => !existsSync(path.join(root, source(file))))).toEqual([]);
  });

  it('ships what is there', () => {
    const made = ['dist', 'prebuilds']; // by the build
    const shipped = (manifest.files as string[])
      .map((file) => file.replace(/^!/, ''))
      .filter((file) => !made.includes(file));
    expect(shipped.filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
  });

  it('names scripts that are there', () => {
    const scripts = Object.values(manifest.scripts as Record<string, string>).join(' ');
    const files = scripts.match(/\bscripts\/[\w.-]+/g)!;
    expect(files.filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
  });
});
