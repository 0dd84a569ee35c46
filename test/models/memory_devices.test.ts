import { beforeAll, describe, expect, it, vi } from 'vitest';
import { type BytesByKind, type CpuInfo, Device } from '../../lib/device';
import { kernels } from '../../lib/kernels';
import { vit } from '../../lib/models';
import { adamW } from '../../lib/optim';
import { dtl, dtlPlus, type ModelOptions } from '../../lib/petl';

const methods = { dtl, dtlPlus };
type Policy = Pick<ModelOptions, 'retain' | 'prefix'>;

// A CPU that widens bf16 products packs its weights in f32: there f32 is what both can be compared in.
let dtype: 'f32' | 'bf16';
beforeAll(async () => {
  await using cpu = await Device.open('cpu');
  dtype = (cpu.info() as CpuInfo).bf16Gemm ? 'bf16' : 'f32';
});

/**
 * A training step of ViT-B/16, batch 32: the highest bytes of each kind, and what all tensors take behind each call; without workspaces, such as packings for
 * backward, which CUDA does without.
 */
async function stepOf(
  name: string,
  method: keyof typeof methods,
  policy: Policy,
): Promise<{ peaks: Omit<BytesByKind, 'workspace'>; behindCalls: [kernel: string, bytes: number][] }> {
  await using device = await Device.open(name, { plan: true });
  const model = methods[method](vit(device, 'vit_base_patch16_224', { dtype }), { classes: 100, ...policy });
  const optimizer = adamW(model.parameters());
  const batch = { images: new Float32Array(32 * 3 * 224 * 224), labels: new Int32Array(32) };
  await model.step(batch, optimizer);
  device.resetPeak();
  const behindCalls: [string, number][] = [];
  const calls = kernels as unknown as Record<string, (...args: unknown[]) => unknown>;
  for (const [kernel, call] of Object.entries(calls)) {
    if (kernel === 'linearPack') continue;
    vi.spyOn(calls, kernel).mockImplementation((...args) => {
      const results = call(...args);
      const { currentBytes, current } = device.memory();
      behindCalls.push([kernel, currentBytes - current.workspace]);
      return results;
    });
  }
  await model.step(batch, optimizer);
  vi.restoreAllMocks();
  const { workspace: _, ...peaks } = device.memory().peak;
  return { peaks, behindCalls };
}

describe('training takes the same bytes on the CPU and on CUDA, to the byte, workspaces aside', () => {
  for (const method of ['dtl', 'dtlPlus'] as const) {
    for (const policy of [{}, { retain: 'block-inputs', prefix: 'recompute' }] as Policy[]) {
      it(`${method} ${JSON.stringify(policy)}`, async () => {
        const cuda = await stepOf('cuda-emulated', method, policy);
        expect(cuda).toEqual(await stepOf('cpu', method, policy));
        expect(Math.max(...cuda.behindCalls.map(([, bytes]) => bytes))).toBeGreaterThan(3e8);
      });
    }
  }
});
