/** A backbone that trains in milliseconds, and images that it can tell apart. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { writeSafetensors } from '../../lib/io/safetensors';
import { completeConfig, vitShapes } from '../../lib/models/vit';
import { Random } from '../random';

export const CLASSES = ['blue', 'green', 'red'];
const COLOURS = [
  { r: 20, g: 20, b: 220 },
  { r: 20, g: 200, b: 20 },
  { r: 220, g: 20, b: 20 },
];

export function tempFolder(): { path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'sidetune-cli-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** Writes a vision transformer for images of 16 × 16 with 3 blocks; the seed makes it another one. */
export async function writeBackbone(path: string, seed = 1): Promise<string> {
  const config = completeConfig({ imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2, hidden: 32 });
  const random = new Random(seed);
  const tensors = [...vitShapes(config)].map(([name, shape]) => {
    const mean = /norm\d?\.weight$/.test(name) ? 1 : 0;
    const length = shape.reduce((product, side) => product * side, 1);
    return {
      name,
      dtype: 'F32' as const,
      shape,
      data: Float32Array.from({ length }, () => mean + 0.2 * random.normal()),
    };
  });
  await writeSafetensors(path, tensors, { heads: '2', name: 'tiny' });
  return path;
}

/** Writes `each` images of each class to folder/<class>/N.png: plain colours with a spot that moves. */
export async function writeImages(folder: string, each = 4, classes: readonly string[] = CLASSES): Promise<string> {
  for (const [index, name] of classes.entries()) {
    mkdirSync(join(folder, name), { recursive: true });
    for (let i = 0; i < each; i++) {
      const spot = await sharp({ create: { width: 4, height: 4, channels: 3, background: { r: 250, g: 250, b: 250 } } })
        .png()
        .toBuffer();
      await sharp({ create: { width: 20, height: 20, channels: 3, background: COLOURS[index % 3]! } })
        .composite([{ input: spot, left: i % 16, top: (i * 5) % 16 }])
        .png()
        .toFile(join(folder, name, `${i}.png`));
    }
  }
  return folder;
}
