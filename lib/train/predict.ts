import { normalizeImages, readImage } from '../data';
import type { PetlModel } from '../petl';

export interface Prediction {
  path: string;
  /** All classes, most likely first. `label` is the class's name if the model knows it, else its number. */
  classes: { label: string; probability: number }[];
}

/**
 * Classifies image files, one batch for all.
 * @throws FileError, FormatError naming the image
 */
export async function predict(model: PetlModel, paths: readonly string[]): Promise<Prediction[]> {
  const size = model.backbone.config.imageSize;
  const pixels = new Uint8Array(paths.length * size * size * 3);
  for (const [index, path] of paths.entries()) pixels.set(await readImage(path, { size }), index * size * size * 3);
  const rows = await model.predict(normalizeImages(pixels, size));
  return rows.map((row, index) => ({
    path: paths[index]!,
    classes: Array.from(row, (probability, label) => ({
      label: model.options.labels?.[label] ?? String(label),
      probability,
    })).sort((a, b) => b.probability - a.probability),
  }));
}
