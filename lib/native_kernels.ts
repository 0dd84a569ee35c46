/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from './native';
import type { Tensor } from './tensor';

export interface Kernels {
  layerNormForward(
    args: {
      /** in [..., d] f32 bf16 */ x: Tensor;
      /** in [d] f32 */ weight: Tensor;
      /** in [d] f32 */ bias: Tensor;
      /** out [..., d] like x */ out?: Tensor | undefined;
      /** saved [...] f32 */ mean?: Tensor | undefined;
      /** saved [...] f32 */ rstd?: Tensor | undefined;
      /** saved [..., d] u8 */ xhat?: Tensor | undefined;
      /** saved [...] f32 */ step?: Tensor | undefined;
      eps?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    mean?: Tensor;
    rstd?: Tensor;
    xhat?: Tensor;
    step?: Tensor;
  };
  layerNormProjectForward(
    args: {
      /** in [..., d] f32 bf16 */ x: Tensor;
      /** in [d] f32 */ weight: Tensor;
      /** in [d] f32 */ bias: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** out [..., d] like x */ out?: Tensor | undefined;
      /** out [..., r] f32 */ u?: Tensor | undefined;
      /** saved [...] f32 */ mean?: Tensor | undefined;
      /** saved [...] f32 */ rstd?: Tensor | undefined;
      eps?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    u: Tensor;
    mean?: Tensor;
    rstd?: Tensor;
  };
  layerNormBackward(
    args: {
      /** in [..., d] f32 bf16 */ gradOut: Tensor;
      /** in [..., d] like gradOut */ x?: Tensor | undefined;
      /** in [d] f32 */ weight: Tensor;
      /** in [...] f32 */ mean?: Tensor | undefined;
      /** in [...] f32 */ rstd: Tensor;
      /** in [..., d] u8 */ xhat?: Tensor | undefined;
      /** in [...] f32 */ step?: Tensor | undefined;
      /** in [..., d] like gradOut */ residual?: Tensor | undefined;
      /** out [..., d] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [d] f32 */ gradWeight?: Tensor | undefined;
      /** inOut [d] f32 */ gradBias?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  scaleShiftForward(
    args: {
      /** in [..., d] f32 bf16 */ x: Tensor;
      /** in [d] f32 */ scale: Tensor;
      /** in [d] f32 */ shift: Tensor;
      /** out [..., d] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  scaleShiftBackward(
    args: {
      /** in [..., d] f32 bf16 */ gradOut: Tensor;
      /** in [..., d] like gradOut */ x?: Tensor | undefined;
      /** in [d] f32 */ scale?: Tensor | undefined;
      /** out [..., d] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [d] f32 */ gradScale?: Tensor | undefined;
      /** inOut [d] f32 */ gradShift?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  linearForward(
    args: {
      /** in [..., I] f32 bf16 */ x: Tensor;
      /** in [O, I] f32 bf16 i8 */ weight: Tensor;
      /** in [O] f32 */ bias?: Tensor | undefined;
      /** in [..., O] like x */ residual?: Tensor | undefined;
      activation?: 'none' | 'gelu' | undefined;
      /** out [..., O] like x */ out?: Tensor | undefined;
      /** saved [..., O] like x */ preActivation?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    preActivation?: Tensor;
  };
  linearBackward(
    args: {
      /** in [..., O] f32 bf16 */ gradOut: Tensor;
      /** in [..., I] like gradOut */ x?: Tensor | undefined;
      /** in [O, I] f32 bf16 */ weight?: Tensor | undefined;
      /** in [..., O] like gradOut */ preActivation?: Tensor | undefined;
      /** in [..., I] like gradOut, u8 for bf16 */ xSlope?: Tensor | undefined;
      /** in [..., I] like gradOut */ residual?: Tensor | undefined;
      activation?: 'none' | 'gelu' | undefined;
      /** out [..., I] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [O, I] f32 */ gradWeight?: Tensor | undefined;
      /** inOut [O] f32 */ gradBias?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  linearPack(
    args: {
      /** in [O, I] f32 bf16 i8 */ weight: Tensor;
      /** out [O, I] f32 bf16 i8 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  linearAddForward(
    args: {
      column?: number | undefined;
      /** inOut [..., W] f32 bf16 */ y: Tensor;
      /** in [..., I] like y */ x: Tensor;
      /** in [O, I] f32 bf16 */ weight: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
  linearAddBackward(
    args: {
      column?: number | undefined;
      /** in [..., W] f32 bf16 */ gradOut: Tensor;
      /** in [..., I] like gradOut */ x?: Tensor | undefined;
      /** in [O, I] f32 bf16 */ weight?: Tensor | undefined;
      /** out [..., I] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [O, I] f32 */ gradWeight?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  mlpForward(
    args: {
      /** in [..., I] f32 bf16 */ x: Tensor;
      /** in [H, I] f32 bf16 i8 */ weight1: Tensor;
      /** in [H] f32 */ bias1?: Tensor | undefined;
      /** in [O, H] f32 bf16 i8 */ weight2: Tensor;
      /** in [O] f32 */ bias2?: Tensor | undefined;
      /** in [..., O] like x */ residual?: Tensor | undefined;
      /** out [..., O] like x */ out?: Tensor | undefined;
      /** saved [..., H] like x, u8 for bf16 */ slope?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    slope?: Tensor;
  };
  mlpBackward(
    args: {
      /** in [..., O] f32 bf16 */ gradOut: Tensor;
      /** in [..., H] like gradOut, u8 for bf16 */ slope: Tensor;
      /** in [H, I] f32 bf16 */ weight1: Tensor;
      /** in [O, H] f32 bf16 */ weight2: Tensor;
      /** out [..., I] like gradOut */ gradX?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  mlpMeanForward(
    args: {
      /** in [B, N, I] f32 bf16 */ x: Tensor;
      /** in [H, I] f32 bf16 i8 */ weight1: Tensor;
      /** in [H] f32 */ bias1?: Tensor | undefined;
      /** in [O, H] f32 bf16 i8 */ weight2: Tensor;
      /** in [O] f32 */ bias2?: Tensor | undefined;
      /** out [B, O] like x */ out?: Tensor | undefined;
      /** saved [B, N, H] like x, u8 for bf16 */ slope?: Tensor | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    slope?: Tensor;
  };
  mlpMeanBackward(
    args: {
      /** in [B, O] f32 bf16 */ gradOut: Tensor;
      /** in [B, N, H] like gradOut, u8 for bf16 */ slope: Tensor;
      /** in [H, I] f32 bf16 */ weight1: Tensor;
      /** in [O, H] f32 bf16 */ weight2: Tensor;
      /** out [B, N, I] like gradOut */ gradX?: Tensor | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  patchEmbedForward(
    args: {
      /** in [B, C, H, W] f32 */ images: Tensor;
      /** in [D, C, P, P] f32 */ weight: Tensor;
      /** in [D] f32 */ bias?: Tensor | undefined;
      /** out [B, (H/P)*(W/P), D] f32 bf16 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  patchEmbedBackward(
    args: {
      /** in [B, C, H, W] f32 */ images: Tensor;
      /** in [D, C, P, P] f32 */ weight: Tensor;
      /** in [B, (H/P)*(W/P), D] f32 bf16 */ gradOut: Tensor;
      /** out [B, C, H, W] f32 */ gradImages?: Tensor | undefined;
      /** inOut [D, C, P, P] f32 */ gradWeight?: Tensor | undefined;
      /** inOut [D] f32 */ gradBias?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradImages: Tensor;
  };
  embedTokensForward(
    args: {
      prefixTokens?: number | undefined;
      /** in [B, n, D] f32 bf16 */ patches: Tensor;
      /** in [1, 1, D] f32 */ cls?: Tensor | undefined;
      /** in [1, n+T, D] f32 */ pos: Tensor;
      /** out [B, n+T, D] like patches */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  embedTokensBackward(
    args: {
      patches: number | undefined;
      prefixTokens?: number | undefined;
      /** in [B, n+T, D] f32 bf16 */ gradOut: Tensor;
      /** out [B, n, D] like gradOut */ gradPatches?: Tensor | undefined;
      /** inOut [1, 1, D] f32 */ gradCls?: Tensor | undefined;
      /** inOut [1, n+T, D] f32 */ gradPos?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradPatches: Tensor;
  };
  swishForward(
    args: {
      /** in [...] f32 bf16 */ x: Tensor;
      /** out [...] like x */ out?: Tensor | undefined;
      beta?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  swishBackward(
    args: {
      /** in [...] f32 bf16 */ gradOut: Tensor;
      /** in [...] like gradOut */ x: Tensor;
      /** out [...] like gradOut */ gradX?: Tensor | undefined;
      beta?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  lowRankAccumulateForward(
    args: {
      /** inOut [..., d] f32 */ h: Tensor;
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** in [r, d] f32 */ c: Tensor;
      /** saved [..., r] f32 */ u?: Tensor | undefined;
      initialize?: boolean | undefined;
    },
    flags?: CallFlags,
  ): {
    u?: Tensor;
  };
  lowRankAccumulateBackward(
    args: {
      /** in [..., d] f32 */ gradH: Tensor;
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** in [r, d] f32 */ c: Tensor;
      /** in [..., r] f32 */ u: Tensor;
      /** in [..., d] like z */ residual?: Tensor | undefined;
      /** out [..., d] like z */ gradZ?: Tensor | undefined;
      /** inOut [d, r] f32 */ gradA?: Tensor | undefined;
      /** inOut [r, d] f32 */ gradC?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradZ: Tensor;
  };
  lowRankUndo(
    args: {
      /** inOut [..., d] f32 */ h: Tensor;
      /** in [..., r] f32 */ u: Tensor;
      /** in [r, d] f32 */ c: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
  lowRankProjectForward(
    args: {
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** out [..., r] f32 */ u?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    u: Tensor;
  };
  lowRankProjectBackward(
    args: {
      /** in [..., r] f32 */ gradU: Tensor;
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** in [..., d] like z */ residual?: Tensor | undefined;
      /** out [..., d] like z */ gradZ?: Tensor | undefined;
      /** inOut [d, r] f32 */ gradA?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradZ: Tensor;
  };
  lowRankCombineForward(
    args: {
      /** inOut [..., d] f32 */ h: Tensor;
      /** in [..., r] f32 */ u: readonly Tensor[];
      /** in [r, d] f32 */ c: readonly Tensor[];
    },
    flags?: CallFlags,
  ): {

  };
  lowRankCombineBackward(
    args: {
      /** in [..., d] f32 */ gradH: Tensor;
      /** in [..., r] f32 */ u: readonly Tensor[];
      /** in [r, d] f32 */ c: readonly Tensor[];
      /** inOut [..., r] f32 */ gradU?: readonly Tensor[] | undefined;
      /** inOut [r, d] f32 */ gradC?: readonly Tensor[] | undefined;
    },
    flags?: CallFlags,
  ): {

  };
  depthwiseConvForward(
    args: {
      grid: readonly number[] | undefined;
      prefixTokens?: number | undefined;
      /** in [B, P+GH*GW, D] f32 bf16 */ x: Tensor;
      /** in [D, 1, K, K] f32 */ weight: Tensor;
      /** out [B, P+GH*GW, D] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  depthwiseConvBackward(
    args: {
      grid: readonly number[] | undefined;
      prefixTokens?: number | undefined;
      /** in [B, P+GH*GW, D] f32 bf16 */ gradOut: Tensor;
      /** in [B, P+GH*GW, D] like gradOut */ x?: Tensor | undefined;
      /** in [D, 1, K, K] f32 */ weight: Tensor;
      /** out [B, P+GH*GW, D] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [D, 1, K, K] f32 */ gradWeight?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  sideInjectForward(
    args: {
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [..., d] f32 */ h: Tensor;
      /** in [d, 1, K, K] f32 */ weight?: Tensor | undefined;
      /** out [..., d] like z */ out?: Tensor | undefined;
      beta?: number | undefined;
      grid?: readonly number[] | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  sideInjectBackward(
    args: {
      /** in [..., d] f32 bf16 */ gradOut: Tensor;
      /** in [..., d] f32 */ h: Tensor;
      /** in [d, 1, K, K] f32 */ weight?: Tensor | undefined;
      /** in [..., d] f32 */ residual?: Tensor | undefined;
      /** out [..., d] f32 */ gradH?: Tensor | undefined;
      /** inOut [d, 1, K, K] f32 */ gradWeight?: Tensor | undefined;
      beta?: number | undefined;
      grid?: readonly number[] | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradH: Tensor;
  };
  sideInjectLowRankForward(
    args: {
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [..., r] f32 */ u: readonly Tensor[];
      /** in [r, d] f32 */ c: readonly Tensor[];
      /** in [d, 1, K, K] f32 */ weight?: Tensor | undefined;
      /** out [..., d] like z */ out?: Tensor | undefined;
      beta?: number | undefined;
      grid?: readonly number[] | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  sideInjectLowRankBackward(
    args: {
      /** in [..., d] f32 bf16 */ gradOut: Tensor;
      /** in [..., r] f32 */ u: readonly Tensor[];
      /** in [r, d] f32 */ c: readonly Tensor[];
      /** in [d, 1, K, K] f32 */ weight?: Tensor | undefined;
      /** out [..., d] f32 */ gradH?: Tensor | undefined;
      /** inOut [d, 1, K, K] f32 */ gradWeight?: Tensor | undefined;
      beta?: number | undefined;
      grid?: readonly number[] | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradH: Tensor;
  };
  gateForward(
    args: {
      /** in [...] f32 bf16 */ a: Tensor;
      /** in [...] like a */ b: Tensor;
      /** in [1] f32 */ alpha: Tensor;
      /** out [...] like a */ out?: Tensor | undefined;
      temperature?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  gateBackward(
    args: {
      /** in [...] f32 bf16 */ gradOut: Tensor;
      /** in [...] like gradOut */ a?: Tensor | undefined;
      /** in [...] like gradOut */ b?: Tensor | undefined;
      /** in [1] f32 */ alpha: Tensor;
      /** out [...] like gradOut */ gradA?: Tensor | undefined;
      /** out [...] like gradOut */ gradB?: Tensor | undefined;
      /** inOut [1] f32 */ gradAlpha?: Tensor | undefined;
      temperature?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradA: Tensor;
    gradB: Tensor;
  };
  attentionForward(
    args: {
      /** in [B, N, C] f32 bf16 */ qkv: Tensor;
      /** out [B, N, C/3] like qkv */ out?: Tensor | undefined;
      /** saved [B, H, N] f32 */ lse?: Tensor | undefined;
      heads: number | undefined;
      scale?: number | undefined;
      algorithm?: 'tiled' | 'batched' | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    lse?: Tensor;
  };
  attentionBackward(
    args: {
      /** in [B, N, d] f32 bf16 */ gradOut: Tensor;
      /** in [B, N, 3*d] like gradOut */ qkv: Tensor;
      /** in [B, H, N] f32 */ lse: Tensor;
      /** out [B, N, 3*d] like gradOut */ gradQkv?: Tensor | undefined;
      heads: number | undefined;
      scale?: number | undefined;
      algorithm?: 'tiled' | 'batched' | undefined;
    },
    flags?: CallFlags,
  ): {
    gradQkv: Tensor;
  };
  classAttentionForward(
    args: {
      /** in [B, N, I] f32 bf16 */ x: Tensor;
      /** in [C, I] f32 bf16 */ weight: Tensor;
      /** in [C] f32 */ bias?: Tensor | undefined;
      /** out [B, C/3] like x */ out?: Tensor | undefined;
      heads: number | undefined;
      scale?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  geluForward(
    args: {
      /** in [...] f32 bf16 */ x: Tensor;
      /** out [...] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  geluBackward(
    args: {
      /** in [...] f32 bf16 */ gradOut: Tensor;
      /** in [...] like gradOut */ x: Tensor;
      /** out [...] like gradOut */ gradX?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  reluForward(
    args: {
      /** in [...] f32 bf16 */ x: Tensor;
      /** out [...] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  reluBackward(
    args: {
      /** in [...] f32 bf16 */ gradOut: Tensor;
      /** in [...] like gradOut */ out: Tensor;
      /** out [...] like gradOut */ gradX?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  dropout(
    args: {
      /** in [...] f32 bf16 */ x: Tensor;
      /** in [1] i32 */ step: Tensor;
      /** out [...] like x */ out?: Tensor | undefined;
      rate: number | undefined;
      seed: number | undefined;
      stream: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  poolForward(
    args: {
      /** in [B, N, d] f32 bf16 */ x: Tensor;
      /** out [B, d] f32 bf16 */ out?: Tensor | undefined;
      mode?: 'first' | 'mean' | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  poolBackward(
    args: {
      /** in [B, d] f32 bf16 */ gradOut: Tensor;
      /** out [B, N, d] f32 bf16 */ gradX?: Tensor | undefined;
      mode?: 'first' | 'mean' | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  promptForward(
    args: {
      at: number | undefined;
      replaced?: number | undefined;
      /** in [B, N, d] f32 bf16 */ x: Tensor;
      /** in [l, d] f32 */ prompt: Tensor;
      /** out [B, N+l-R, d] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  promptBackward(
    args: {
      prompts: number | undefined;
      at: number | undefined;
      replaced?: number | undefined;
      /** in [B, M, d] f32 bf16 */ gradOut: Tensor;
      /** out [B, M+R-l, d] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [l, d] f32 */ gradPrompt?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  sliceForward(
    args: {
      rows: readonly number[] | undefined;
      columns: readonly number[] | undefined;
      /** in [R, C] f32 */ x: Tensor;
      /** out [rowTo-rowFrom, columnTo-columnFrom] f32 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  sliceBackward(
    args: {
      rows: readonly number[] | undefined;
      columns: readonly number[] | undefined;
      /** in [rowTo-rowFrom, columnTo-columnFrom] f32 */ gradOut: Tensor;
      /** inOut [R, C] f32 */ gradX: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
  factorContractForward(
    args: {
      column?: number | undefined;
      count: number | undefined;
      layout?: 'rows' | 'interleaved_rows' | 'interleaved_columns' | undefined;
      /** in [r, r, r] f32 */ core: Tensor;
      /** in [r, T] f32 */ factors: Tensor;
      /** out [n*r, r] f32 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  factorContractBackward(
    args: {
      column?: number | undefined;
      count: number | undefined;
      layout?: 'rows' | 'interleaved_rows' | 'interleaved_columns' | undefined;
      /** in [r, r, r] f32 */ core?: Tensor | undefined;
      /** in [r, T] f32 */ factors?: Tensor | undefined;
      /** inOut [r, r, r] f32 */ gradCore?: Tensor | undefined;
      /** inOut [r, T] f32 */ gradFactors?: Tensor | undefined;
      /** in [n*r, r] f32 */ gradOut: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
  softmaxCrossEntropyForward(
    args: {
      /** in [B, C] f32 */ logits: Tensor;
      /** in [B] i32 */ labels: Tensor;
      /** out [1] f32 */ loss?: Tensor | undefined;
      /** out [1] i32 */ correct?: Tensor | undefined;
      /** saved [B] f32 */ lse?: Tensor | undefined;
      labelSmoothing?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    loss: Tensor;
    correct: Tensor;
    lse?: Tensor;
  };
  softmaxCrossEntropyBackward(
    args: {
      /** in [1] f32 */ gradLoss: Tensor;
      /** in [B, C] f32 */ logits: Tensor;
      /** in [B] i32 */ labels: Tensor;
      /** in [B] f32 */ lse: Tensor;
      /** out [B, C] f32 */ gradLogits?: Tensor | undefined;
      labelSmoothing?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradLogits: Tensor;
  };
  addForward(
    args: {
      /** in [...] f32 bf16 */ a: Tensor;
      /** in [...] like a */ b: Tensor;
      /** out [...] like a */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  addInto(
    args: {
      /** inOut [...] f32 bf16 */ target: Tensor;
      /** in [...] like target */ x: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
  scale(
    args: {
      /** in [...] f32 bf16 */ x: Tensor;
      /** out [...] like x */ out?: Tensor | undefined;
      factor: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  cast(
    args: {
      /** in [...] f32 bf16 u8 */ x: Tensor;
      /** out [...] f32 bf16 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  fill(
    args: {
      /** out [...] f32 bf16 */ out?: Tensor | undefined;
      value: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  residualAddForward(
    args: {
      /** in [B, N, d] f32 bf16 */ x: Tensor;
      /** in [B, N, d] like x */ branch: Tensor;
      /** in [B] f32 */ rowScale: Tensor;
      /** out [B, N, d] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  residualAddBackward(
    args: {
      /** in [B, N, d] f32 bf16 */ gradOut: Tensor;
      /** in [B] f32 */ rowScale: Tensor;
      /** out [B, N, d] like gradOut */ gradBranch?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradBranch: Tensor;
  };
  adamwUpdate(
    args: {
      /** inOut [...] f32 */ parameters: readonly Tensor[];
      /** inOut [...] f32 */ firstMoments: readonly Tensor[];
      /** inOut [...] f32 */ secondMoments: readonly Tensor[];
      /** in [...] f32 */ gradients: readonly Tensor[];
      lr: number | undefined;
      beta1?: number | undefined;
      beta2?: number | undefined;
      eps?: number | undefined;
      weightDecay?: number | undefined;
      step: number | undefined;
    },
    flags?: CallFlags,
  ): {

  };
  randomUniform(
    args: {
      /** out [...] f32 bf16 */ out?: Tensor | undefined;
      low?: number | undefined;
      high?: number | undefined;
      seed: number | undefined;
      offset?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  randomNormal(
    args: {
      /** out [...] f32 bf16 */ out?: Tensor | undefined;
      mean?: number | undefined;
      deviation?: number | undefined;
      cut?: number | undefined;
      seed: number | undefined;
      offset?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  randomKeep(
    args: {
      /** out [B] f32 */ out?: Tensor | undefined;
      keep: number | undefined;
      seed: number | undefined;
      offset?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
}
