import { needs, record } from '../autograd/tape';
import type { Device, Kind } from '../device';
import { kernels } from '../kernels';
import { addon } from '../native';
import { outsideScopes, scope } from '../scope';
import { type DType, type Layout, Tensor } from '../tensor';

export interface LinearOptions {
  /** Behind the product: nothing, or GELU in its erf form. Default `none`. */
  activation?: 'none' | 'gelu';
  /** Added to the result, [..., O] in the dtype of x; not together with an activation. */
  residual?: Tensor | undefined;
}

/**
 * `out = x Wᵀ + bias`, then GELU or `+ residual`, in one pass.
 * @param x - [..., I], f32 or bf16
 * @param weight - [O, I]: frozen and packed ({@link packWeight}) in the dtype of x or in i8, or a tensor, f32 or the dtype of x, that is packed at each call.
 *   An i8 weight serves where nothing needs a gradient, there x is rounded to 8 bits row by row; where something does, it is widened to the dtype of x.
 * @param bias - [O], f32
 * @returns [..., O], dtype of x; sums are f32
 * Keeps for backward: behind a GELU the sum before it, [..., O]; x only if the weight needs a gradient.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @example const hidden = ops.linear(x, ops.packWeight(weight), bias, { activation: 'gelu' });
 */
export function linear(
  x: Tensor,
  weight: Tensor | PackedWeight,
  bias?: Tensor,
  { activation = 'none', residual }: LinearOptions = {},
): Tensor {
  const packed = weight instanceof PackedWeight ? weight : undefined;
  const plain = packed ? undefined : (weight as Tensor);
  const inputs = { x, weight: plain, bias, residual };
  const needed = needs(inputs);
  const frozen = needed ? packed?.differentiable(x.dtype) : packed;
  const { out, preActivation } = kernels.linearForward(
    { x, weight: frozen?.forward ?? plain!, bias, residual, activation },
    { save: needed !== null, wanted: { preActivation: activation !== 'none' } },
  );
  return record('linear', inputs, out, {
    saved: { x: needed?.weight ? x : undefined, weight: needed?.x ? plain : undefined },
    state: { preActivation },
    backward: ({ gradOut, saved, wanted, pending, accumulator }) => {
      if (!wanted.x && !wanted.weight && !wanted.bias) return { residual: gradOut };
      const { gradX } = kernels.linearBackward(
        {
          gradOut,
          x: saved.x,
          weight: wanted.x ? (frozen?.forBackward() ?? saved.weight) : undefined,
          preActivation: saved.preActivation,
          residual: pending('x'),
          activation,
          gradWeight: accumulator('weight'),
          gradBias: accumulator('bias'),
        },
        { wanted: { gradX: wanted.x ?? false }, kind: 'gradients' },
      );
      return { x: gradX, residual: gradOut };
    },
  });
}

/**
 * @internal The result y of a linear layer, watched: in backward `see` gets what the gradient of its weight is, [O, I], f32, disposed after the call. The
 * weight itself may be packed and frozen.
 * @param x - [..., I], what went in
 * @param y - [..., O], dtype of x
 * @returns y under another handle
 * Keeps for backward: x.
 */
export function watchWeightGradient(x: Tensor, y: Tensor, see: (gradient: Tensor) => void): Tensor {
  return record('watchWeightGradient', { y }, y.alias(), {
    saved: { x },
    backward: ({ gradOut, saved }) => {
      const shape = [gradOut.shape.at(-1)!, saved.x!.shape.at(-1)!];
      const gradWeight = Tensor.zeros(gradOut.device, shape, { kind: 'gradients' });
      kernels.linearBackward({ gradOut, x: saved.x, gradWeight }, { wanted: { gradX: false } });
      see(gradWeight);
      return { y: gradOut };
    },
  });
}

export interface LinearAddOptions {
  /** Where the window of y begins, from 0 to W − O. Default 0. */
  column?: number;
}

/**
 * A linear layer of few inputs, such as one half of a low-rank adapter, added into a window of y in place: `y[..., column : column + O] += x Wᵀ`.
 * The window is read and written once; what y holds beside it stays as it is.
 * @param y - [..., W], f32 or bf16; changed
 * @param x - [..., I], dtype of y
 * @param weight - [O, I] as for {@link linear}; one in i8 is widened
 * @returns a handle on y after the change; use it instead of y from here on
 * Keeps for backward: x only if the weight needs a gradient. The gradient of y is that of the result itself. There is no way back: what reads y as it was
 * before in backward is refused there.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError; ArgumentError for a window that y does not have
 * @example qkv = ops.linearAdd_(qkv, ops.linear(x, a), b, { column: 2 * dim }); // LoRA on v, arXiv 2106.09685
 */
export function linearAdd_(
  y: Tensor,
  x: Tensor,
  weight: Tensor | PackedWeight,
  { column = 0 }: LinearAddOptions = {},
): Tensor {
  const frozen = weight instanceof PackedWeight ? weight.differentiable(x.dtype) : undefined;
  const plain = frozen ? undefined : (weight as Tensor);
  const inputs = { y, x, weight: plain };
  const needed = needs(inputs);
  kernels.linearAddForward({ y, x, weight: frozen?.forward ?? plain!, column });
  return record('linearAdd_', inputs, y.alias(), {
    saved: { x: needed?.weight ? x : undefined, weight: needed?.x ? plain : undefined },
    backward: ({ gradOut, saved, wanted, accumulator }) => {
      if (!wanted.x && !wanted.weight) return { y: gradOut };
      const { gradX } = kernels.linearAddBackward(
        {
          gradOut,
          x: saved.x,
          weight: wanted.x ? (frozen?.forBackward() ?? saved.weight) : undefined,
          gradWeight: accumulator('weight'),
          column,
        },
        { wanted: { gradX: wanted.x ?? false }, kind: 'gradients' },
      );
      return { y: gradOut, x: gradX };
    },
  });
}

/** A frozen weight [O, I] in the order in which matrix products read it. Made by {@link packWeight}. */
export class PackedWeight {
  readonly #widened = new Map<DType, PackedWeight>();
  readonly #plain = new Map<DType, Tensor>();

  /** @internal */
  constructor(
    /** The packing for `x Wᵀ`. */
    readonly forward: Tensor,
  ) {}

  get device(): Device {
    return this.forward.device;
  }
  get shape(): readonly number[] {
    return this.forward.shape;
  }
  get dtype(): DType {
    return this.forward.dtype;
  }

  /** @internal The packing for the gradient of x: a new one, which goes with the call. It takes a small part of the product's time, and kept of each
   * weight it would be as much memory again. On CUDA it is the one for `x Wᵀ`. */
  forBackward(): Tensor {
    const same = addon.tensorTransposed(this.forward.handle);
    if (same) return new Tensor(this.device, same);
    return repack(this.forward, this.dtype, 'workspace', 'packed_transposed');
  }

  /** @internal The weight where a gradient flows: of an i8 one the same numbers in the tokens' dtype, made when first asked for, and kept. */
  differentiable(dtype: DType): PackedWeight {
    if (this.dtype !== 'i8') return this;
    const made =
      this.#widened.get(dtype) ??
      new PackedWeight(outsideScopes(() => repack(this.forward, dtype, 'weights', 'packed')));
    this.#widened.set(dtype, made);
    return made;
  }

  /** @internal The numbers as a plain tensor, for who reads rows of them: made when first asked for, and kept. */
  plain(dtype: DType): Tensor {
    const made = this.#plain.get(dtype) ?? outsideScopes(() => repack(this.forward, dtype, 'weights', 'plain'));
    this.#plain.set(dtype, made);
    return made;
  }

  /** @internal The same packing under another handle: what is derived from that one goes with it. */
  borrow(): PackedWeight {
    return new PackedWeight(outsideScopes(() => this.forward.alias()));
  }

  dispose(): void {
    this.forward.dispose();
    for (const weight of [...this.#widened.values(), ...this.#plain.values()]) weight.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function repack(weight: Tensor, dtype: DType, kind: Kind, layout: Layout): Tensor {
  return scope(() => {
    const out = Tensor.empty(weight.device, weight.shape, { dtype, kind, layout });
    kernels.linearPack({ weight, out });
    return out;
  });
}

/**
 * Packs a frozen weight for {@link linear}; `weight` itself is not needed afterwards.
 * @param weight - [O, I], f32 or bf16
 * @param options - `dtype` of the products. Default: that of weight. 'i8': one scale for each output, for any dtype of x
 * @throws ShapeError, DtypeError, DisposedError
 */
export function packWeight(weight: Tensor, { dtype = weight.dtype }: { dtype?: DType } = {}): PackedWeight {
  return new PackedWeight(repack(weight, dtype, 'weights', 'packed'));
}

/**
 * The numbers of a packed weight as a plain tensor [O, I].
 * @param options - `dtype`: default that of weight, f32 for i8. `kind`: what memory reports count it as, default 'weights'
 * @throws DtypeError, DisposedError
 */
export function unpackWeight(
  weight: PackedWeight,
  { dtype = weight.dtype === 'i8' ? 'f32' : weight.dtype, kind = 'weights' }: { dtype?: DType; kind?: Kind } = {},
): Tensor {
  return repack(weight.forward, dtype, kind, 'plain');
}
