import { beforeAll, describe, expect, it } from 'vitest';
import { type BytesByKind, type CpuInfo, Device } from '../../lib/device';
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

/** Highest bytes of each kind in a training step of ViT-B/16, batch 32; and in all at the peak, workspaces aside. */
async function peaks(
  name: string,
  method: keyof typeof methods,
  policy: Policy,
): Promise<Omit<BytesByKind, 'workspace'> & { all: number }> {
  await using device = await Device.open(name, { plan: true });
  const model = methods[method](vit(device, 'vit_base_patch16_224', { dtype }), { classes: 100, ...policy });
  const optimizer = adamW(model.parameters());
  const batch = { images: new Float32Array(32 * 3 * 224 * 224), labels: new Int32Array(32) };
  await model.step(batch, optimizer);
  device.resetPeak();
  await model.step(batch, optimizer);
  const { peak, peakBytes, atPeak } = device.memory();
  const { workspace: _, ...kinds } = peak;
  return { ...kinds, all: peakBytes - atPeak.workspace };
}

describe('training takes the same bytes on the CPU and on CUDA, to the byte, workspaces aside', () => {
  for (const method of ['dtl', 'dtlPlus'] as const) {
    for (const policy of [{}, { retain: 'block-inputs', prefix: 'recompute' }] as Policy[]) {
      it(`${method} ${JSON.stringify(policy)}`, async () => {
        const cuda = await peaks('cuda-emulated', method, policy);
        expect(cuda).toEqual(await peaks('cpu', method, policy));
        expect(cuda.all).toBeGreaterThan(3e8);
      });
    }
  }
});
