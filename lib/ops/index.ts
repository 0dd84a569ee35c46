export { type AdamwOptions, type AdamwTensors, adamwUpdate_ } from './adamw';
export {
  type AttentionOptions,
  attention,
  type ClassAttentionOptions,
  classAttention,
  projectedAttention,
} from './attention';
export { type CrossEntropyOptions, softmaxCrossEntropy } from './cross_entropy';
export { type DepthwiseConvOptions, depthwiseConv } from './depthwise_conv';
export { type DropoutOptions, dropout } from './dropout';
export { add, addInto_, cast, fill_, reshape, residualAdd, scale, scaleImages } from './elementwise';
export { type FactorContractOptions, factorContract } from './factor';
export { type GateOptions, gatedMix } from './gate';
export { gelu } from './gelu';
export { type LayerNormOptions, layerNorm, layerNormProject } from './layer_norm';
export {
  type LinearAddOptions,
  type LinearOptions,
  linear,
  linearAdd_,
  PackedWeight,
  packWeight,
  unpackWeight,
} from './linear';
export { type LowRankOptions, lowRankAccumulate_, lowRankCombine_, lowRankProject } from './low_rank';
export { type MlpMeanOptions, type MlpOptions, type MlpWeights, mlp, mlpMean } from './mlp';
export { embedTokens, type PatchEmbedOptions, patchEmbed } from './patch_embed';
export { type PoolOptions, pool } from './pool';
export { insertPrompts, type PromptOptions } from './prompt';
export {
  type KeepOptions,
  type NormalOptions,
  type RandomPlace,
  randomKeep_,
  randomNormal_,
  randomUniform_,
  type UniformOptions,
} from './random';
export { relu } from './relu';
export { scaleShift } from './scale_shift';
export { type SideInjectOptions, sideInject, sideInjectLowRank } from './side_inject';
export { type SliceOptions, slice } from './slice';
export { type SwishOptions, swish } from './swish';
