/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { AdamwKernels } from './adamw';
import type { AttentionKernels } from './attention';
import type { CrossEntropyKernels } from './cross_entropy';
import type { DepthwiseConvKernels } from './depthwise_conv';
import type { DropoutKernels } from './dropout';
import type { ElementwiseKernels } from './elementwise';
import type { FactorKernels } from './factor';
import type { GateKernels } from './gate';
import type { GeluKernels } from './gelu';
import type { LayerNormKernels } from './layer_norm';
import type { LinearKernels } from './linear';
import type { LowRankKernels } from './low_rank';
import type { MlpKernels } from './mlp';
import type { PatchEmbedKernels } from './patch_embed';
import type { PoolKernels } from './pool';
import type { PromptKernels } from './prompt';
import type { RandomKernels } from './random';
import type { ReluKernels } from './relu';
import type { ScaleShiftKernels } from './scale_shift';
import type { SideInjectKernels } from './side_inject';
import type { SliceKernels } from './slice';
import type { SwishKernels } from './swish';

export interface Kernels
  extends AdamwKernels,
    AttentionKernels,
    CrossEntropyKernels,
    DepthwiseConvKernels,
    DropoutKernels,
    ElementwiseKernels,
    FactorKernels,
    GateKernels,
    GeluKernels,
    LayerNormKernels,
    LinearKernels,
    LowRankKernels,
    MlpKernels,
    PatchEmbedKernels,
    PoolKernels,
    PromptKernels,
    RandomKernels,
    ReluKernels,
    ScaleShiftKernels,
    SideInjectKernels,
    SliceKernels,
    SwishKernels {}
