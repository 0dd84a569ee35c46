export { type LayerNormOptions, layerNorm } from './layer_norm';
