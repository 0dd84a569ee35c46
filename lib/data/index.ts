/** Public names of lib/data. */
export { type AffineAugmentOptions, type Augment, affineAugment } from './augment';
export {
  type Batch,
  type BatchOptions,
  batchCount,
  batches,
  epochOrder,
  type Normalization,
  normalizeImages,
  type PerChannel,
} from './batch';
export {
  type Dataset,
  type DatasetParts,
  describeSkipped,
  type LoadedDataset,
  type LoadOptions,
  loadDataset,
  makeDataset,
  type OnBadImage,
  type Sample,
  type SkippedImage,
} from './dataset';
export { decodeImage, type ImageOptions, readImage } from './image';
export { type ImageFolderOptions, type ImageListOptions, imageFolder, imageList } from './image_folder';
export { type PixelSize, resizeBicubic } from './resize';
export { Rng } from './rng';
