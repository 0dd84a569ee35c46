export interface AdamwState {
  parameter: Float64Array;
  firstMoment: Float64Array;
  secondMoment: Float64Array;
}

export interface AdamwSettings {
  lr: number;
  step: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
}

/** One step, in place. */
export function adamw(state: AdamwState, gradient: ArrayLike<number>, settings: AdamwSettings): void {
  const { parameter, firstMoment: m, secondMoment: v } = state;
  const { lr, step, beta1, beta2, eps, weightDecay } = settings;
  for (let i = 0; i < parameter.length; i++) {
    const g = gradient[i]!;
    m[i] = beta1 * m[i]! + (1 - beta1) * g;
    v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
    const root = Math.sqrt(v[i]! / (1 - beta2 ** step));
    parameter[i] = (1 - lr * weightDecay) * parameter[i]! - ((lr / (1 - beta1 ** step)) * m[i]!) / (root + eps);
  }
}
