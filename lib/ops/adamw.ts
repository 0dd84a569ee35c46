import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

export interface AdamwTensors {
  /** What is trained; f32, like all of these. */
  parameters: readonly Tensor[];
  /** One for each parameter, in its shape, 0 before the first step. */
  firstMoments: readonly Tensor[];
  secondMoments: readonly Tensor[];
  gradients: readonly Tensor[];
}

export interface AdamwOptions {
  /** Learning rate of this step. */
  lr: number;
  /** Number of this step, from 1: corrects the moments' bias towards 0. */
  step: number;
  /** Default 0.9. */
  beta1?: number;
  /** Default 0.999. */
  beta2?: number;
  /** Default 1e-8. */
  eps?: number;
  /** Decoupled decay: parameters shrink by the factor 1 − lr · weightDecay. Default 0. */
  weightDecay?: number;
}

/**
 * One step of AdamW on a list of tensors, in place and in one pass:
 * `θ ← (1 − lr λ) θ`, `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`, `θ ← θ − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps)`.
 * Not recorded for gradients.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see Loshchilov and Hutter, arXiv 1711.05101
 */
export function adamwUpdate_(tensors: AdamwTensors, options: AdamwOptions): void {
  kernels.adamwUpdate({ ...tensors, ...options });
}
