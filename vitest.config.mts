import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

// What depends on the GEMM library runs again as on machines with fewer instructions, where this one has more. (Our own kernels run on every SIMD target in
// any run, see test/each_target.ts; the library takes its choice once in a process.)
const processor = readFileSync('/proc/cpuinfo', 'utf8');
const lesser = [
  { name: 'AVX2', simd: 'AVX2', isa: 'AVX2', below: /\bavx512f\b/ },
  { name: 'scalar', simd: 'scalar', isa: 'SSE41', below: /\bavx2\b/ },
].filter(({ below }) => below.test(processor));

export default defineConfig({
  // What examples import: the sources that are tested, not what was last built of them.
  resolve: { alias: [{ find: /^sidetune$/, replacement: fileURLToPath(new URL('lib/index.ts', import.meta.url)) }] },
  test: {
    pool: 'forks', // an addon fault must not take the runner down, and each file gets a stream of its own
    maxWorkers: 2,
    env: { OMP_WAIT_POLICY: 'passive' }, // several processes share the cores: threads that spin are in each other's way
    globalSetup: ['test/cuda-emulation/build.mts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: { name: 'all', include: ['test/**/*.test.ts'], exclude: ['test/cuda-emulation/{paths,traffic}.test.ts'] },
      },
      ...lesser.map(({ name, simd, isa }) => ({
        extends: true as const,
        test: {
          name,
          include: [
            'test/ops/linear.test.ts',
            'test/ops/patch_embed.test.ts',
            'test/ops/mlp.test.ts',
            'test/int8/*.test.ts',
            'test/models/*.test.ts',
          ],
          env: { SIDETUNE_SIMD: simd, ONEDNN_MAX_CPU_ISA: isa, DNNL_MAX_CPU_ISA: isa },
        },
      })),
      // The CUDA sources under emulation (test/cuda-emulation): every kernel, and all that is built on them.
      {
        extends: true,
        test: {
          name: 'cuda-emulated',
          testTimeout: 300_000,
          include: [
            'test/ops/*.test.ts',
            'test/cuda-emulation/paths.test.ts',
            'test/models/*.test.ts',
            'test/petl/*.test.ts',
            'test/train/*.test.ts',
            'test/lifecycle/{replay,scope,tape,tensor}.test.ts',
          ],
          env: { SIDETUNE_TEST_DEVICE: 'cuda-emulated' },
        },
      },
      // bf16 where tensor cores do not take it.
      {
        extends: true,
        test: {
          name: 'cuda-turing',
          testTimeout: 300_000,
          include: ['linear', 'mlp', 'patch_embed', 'attention'].map((family) => `test/ops/${family}.test.ts`),
          env: {
            SIDETUNE_TEST_DEVICE: 'cuda-emulated',
            SIDETUNE_TEST_SHORT: '1',
            SIDETUNE_EMULATION: 'capability=7.5 shared=64',
          },
        },
      },
      // The same kernels with every load and store watched, and what they move.
      {
        extends: true,
        test: {
          name: 'cuda-checked',
          testTimeout: 300_000,
          globalSetup: ['test/cuda-emulation/build_checked.mts'],
          include: ['test/ops/*.test.ts', 'test/cuda-emulation/traffic.test.ts'],
          env: {
            SIDETUNE_TEST_DEVICE: 'cuda-emulated',
            SIDETUNE_TEST_WATCHED: '1',
            SIDETUNE_TEST_SHORT: '1',
            SIDETUNE_EMULATION: 'sms=1', // blocks that have much to do come to all barriers
            SIDETUNE_ADDON: 'build/checked/Release/sidetune.node',
          },
        },
      },
    ],
  },
});
