/** How a CUDA device that cannot be opened says why: a copy of the addon beside libraries made for the purpose, in a process of its own. */

import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runChild } from './child';

const root = path.join(__dirname, '..', '..');
const build = path.join(root, 'build', 'Release');
const folder = mkdtempSync(path.join(os.tmpdir(), 'sidetune-'));
afterAll(() => rmSync(folder, { recursive: true }));

function compile(file: string, source: string, ...libraries: string[]): void {
  const text = path.join(folder, 'source.cc');
  writeFileSync(text, source);
  const { status, stderr } = spawnSync('c++', ['-shared', '-fPIC', '-o', file, text, ...libraries], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(stderr);
}

interface Opened {
  results: { name: string; code?: string; message?: string; info?: { backend: string; processor: string } }[];
  list: { name: string; reason?: string }[];
}

/** Opens devices with an addon whose folder holds `libraries`; with a driver, or with none that the loader could find. */
function open(
  names: string[],
  { driver = true, env = {} }: { driver?: boolean; env?: Record<string, string> },
): Opened {
  const libraries: Record<string, string> = driver ? { LD_LIBRARY_PATH: path.join(folder, 'driver') } : {};
  return runChild('open', {
    args: names,
    env: { SIDETUNE_ADDON: path.join(folder, 'sidetune.node'), ...libraries, ...env },
  }) as Opened;
}

const library = path.join(folder, 'libsidetune_cuda.so');

beforeAll(() => {
  cpSync(path.join(build, 'sidetune.node'), path.join(folder, 'sidetune.node'));
  mkdirSync(path.join(folder, 'driver'));
  compile(path.join(folder, 'driver', 'libcuda.so.1'), '');
});

const hasDriver = /libcuda\.so\.1/.test(spawnSync('ldconfig', ['-p'], { encoding: 'utf8' }).stdout ?? '');

describe('no CUDA device', () => {
  const help = "; Device.open('cpu') works here";

  it.runIf(!hasDriver)('without a driver', () => {
    const { results, list } = open(['cuda', 'cuda:1'], { driver: false });
    const reason = 'libcuda.so.1 was not found, so no NVIDIA driver is installed';
    expect(results).toEqual([
      { name: 'cuda', code: 'SIDETUNE_NO_BACKEND', message: `no device 'cuda': ${reason}${help}` },
      { name: 'cuda:1', code: 'SIDETUNE_NO_BACKEND', message: `no device 'cuda': ${reason}${help}` },
    ]);
    expect(list).toEqual([{ name: 'cpu' }, { name: 'cuda', reason: `no device 'cuda': ${reason}${help}` }]);
  });

  it('without our library', () => {
    const [result] = open(['cuda'], {}).results;
    expect(result).toMatchObject({ code: 'SIDETUNE_NO_BACKEND' });
    expect(result!.message).toBe(
      `no device 'cuda': this build has no libsidetune_cuda.so beside the addon; where nvcc and cuBLAS are installed, npm run build:native makes it${help}`,
    );
  });

  it('without cuBLAS', () => {
    const cublas = path.join(folder, 'libcublasLt.so.13');
    compile(cublas, 'extern "C" void cublas() {}');
    compile(
      library,
      'extern "C" void cublas(); extern "C" void use() { cublas(); }',
      `-L${folder}`,
      '-l:libcublasLt.so.13',
    );
    rmSync(cublas);
    const [result] = open(['cuda'], {}).results;
    expect(result!.message).toMatch(
      /^no device 'cuda': cuBLAS is not installed or not on the loader's path \(libcublasLt\.so\.13: /,
    );
  });

  it('with a library that is none of ours', () => {
    compile(library, '');
    expect(open(['cuda'], {}).results[0]!.message).toBe(
      `no device 'cuda': libsidetune_cuda.so is no backend of sidetune${help}`,
    );
  });

  it('with a library of another version', () => {
    compile(library, 'static unsigned version = 99; extern "C" void* sidetune_backend() { return &version; }');
    const own = /kBackendVersion = (\d+)/.exec(readFileSync(path.join(root, 'native', 'backend.h'), 'utf8'))![1];
    expect(open(['cuda'], {}).results[0]!.message).toBe(
      `no device 'cuda': libsidetune_cuda.so is of version 99 and the addon of version ${own}; build both together with npm run build:native${help}`,
    );
  });

  // From here on the library is the emulated one: it answers as CUDA does.
  it('with a driver that is too old', () => {
    cpSync(path.join(build, 'libsidetune_cuda_emulated.so'), library);
    const env = { SIDETUNE_EMULATION: 'fail=cudaGetDeviceCount:1:cudaErrorInsufficientDriver' };
    expect(open(['cuda'], { env }).results[0]).toMatchObject({
      code: 'SIDETUNE_NO_BACKEND',
      message: expect.stringMatching(
        /^Device\.open: the NVIDIA driver is made for CUDA \d+\.\d+, this backend for CUDA \d+\.\d+: update the driver$/,
      ),
    });
  });

  it('beyond the last', () => {
    const { results, list } = open(['cuda:0', 'cuda:1'], {});
    expect(results[0]!.info).toMatchObject({ backend: 'cuda' });
    expect(results[1]!.message).toBe('Device.open: no CUDA device 1: this machine has 1, counted from 0');
    expect(list).toEqual([{ name: 'cpu' }, { name: 'cuda:0' }]);
  });
});
