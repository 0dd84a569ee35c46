import type { Device, Kind } from './device';
import { ArgumentError, DtypeError, ShapeError } from './errors';
import { bf16ToFloat32, float32ToBf16 } from './io/half';
import { addon, type Handle } from './native';
import { register, setTensorTest, unregister } from './scope';

/** `i8` is the dtype of packed weights alone. */
export type DType = 'f32' | 'bf16' | 'i32' | 'u8' | 'i8';
export type Layout = 'plain' | 'packed' | 'packed_transposed';
export type TensorData = Float32Array | Int32Array | Uint8Array;

export interface TensorOptions {
  /** Default: f32 for numbers and Float32Array, i32 for Int32Array, u8 for Uint8Array, bf16 for Uint16Array. */
  dtype?: DType;
  /** What memory reports count the bytes as. Default: 'activations'. */
  kind?: Kind;
}

interface Description {
  shape: readonly number[];
  dtype: DType;
  layout: Layout;
  bytes: number;
  kind: Kind;
}

/**
 * Numbers in a device's memory, row-major. A tensor is a handle: several may look at the same bytes ({@link alias}, {@link reshape}), and the bytes go when
 * the last one is disposed. Dispose tensors explicitly (`dispose()`, `using`, `scope()`); the garbage collector is only the safety net.
 */
export class Tensor {
  readonly device: Device;
  /** @internal */
  readonly handle: Handle;
  #description: Description | undefined;

  /** @internal Use {@link Tensor.from}, {@link Tensor.empty}, {@link Tensor.zeros}. */
  constructor(device: Device, handle: Handle) {
    this.device = device;
    this.handle = handle;
    register(this);
  }

  /** A tensor whose bytes are whatever was there before. */
  static empty(device: Device, shape: readonly number[], options: TensorOptions & { layout?: Layout } = {}): Tensor {
    const { dtype = 'f32', kind = 'activations', layout = 'plain' } = options;
    return new Tensor(device, addon.tensorCreate(device.handle, shape, dtype, kind, layout));
  }

  static zeros(device: Device, shape: readonly number[], options: TensorOptions = {}): Tensor {
    const tensor = Tensor.empty(device, shape, options);
    addon.tensorZero(tensor.handle);
    return tensor;
  }

  /**
   * A tensor with the given numbers, which are copied at the call.
   * @param data - numbers in row-major order; a Uint16Array holds the bits of bf16 numbers
   * @throws ShapeError when `data` does not have as many numbers as `shape` says
   */
  static from(
    device: Device,
    data: TensorData | Uint16Array | readonly number[],
    shape: readonly number[],
    options: TensorOptions = {},
  ): Tensor {
    const natural: DType =
      data instanceof Int32Array
        ? 'i32'
        : data instanceof Uint8Array
          ? 'u8'
          : data instanceof Uint16Array
            ? 'bf16'
            : 'f32';
    const { dtype = natural, kind } = options;
    const size = shape.reduce((product, length) => product * length, 1);
    if (data.length !== size) {
      throw new ShapeError(
        `Tensor.from: 'data' has ${data.length} numbers, expected ${size} for shape [${shape.join(', ')}]`,
        {
          kernel: 'Tensor.from',
          argument: 'data',
          got: String(data.length),
          expected: String(size),
        },
      );
    }
    const bits = encode(data, dtype);
    const tensor = Tensor.empty(device, shape, kind === undefined ? { dtype } : { dtype, kind });
    addon.tensorWrite(tensor.handle, bits);
    return tensor;
  }

  #describe(): Description {
    this.#description ??= addon.tensorDescribe(this.handle) as Description;
    return this.#description;
  }

  get shape(): readonly number[] {
    return this.#describe().shape;
  }
  get dtype(): DType {
    return this.#describe().dtype;
  }
  get layout(): Layout {
    return this.#describe().layout;
  }
  /** Bytes of the buffer behind the tensor. */
  get bytes(): number {
    return this.#describe().bytes;
  }
  get kind(): Kind {
    return this.#describe().kind;
  }
  /** How many numbers there are. */
  get size(): number {
    return this.shape.reduce((product, length) => product * length, 1);
  }

  get disposed(): boolean {
    return addon.tensorDisposed(this.handle);
  }

  /** Lets go of the bytes. Disposing twice is no error; any other use of a disposed tensor is. */
  dispose(): void {
    unregister(this);
    addon.tensorDispose(this.handle);
    this.#description = undefined; // asking the addon anew throws
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Another handle on the same bytes, with a life of its own. */
  alias(): Tensor {
    return new Tensor(this.device, addon.tensorAlias(this.handle));
  }

  /** The same bytes seen with another shape of as many numbers. Not recorded for gradients: use `ops.reshape` there. */
  reshape(shape: readonly number[]): Tensor {
    return new Tensor(this.device, addon.tensorAlias(this.handle, shape));
  }

  /** Entries [first, first + count) of the first axis: another handle on their bytes. Not recorded for gradients. */
  part(first: number, count: number): Tensor {
    return new Tensor(this.device, addon.tensorPart(this.handle, first, count));
  }

  /** Overwrites the numbers; `data` is copied at the call. Raw bytes (Uint8Array of `bytes` length) are taken as they are. */
  write(data: TensorData | Uint16Array | readonly number[]): void {
    const raw = data instanceof Uint8Array && data.length === this.bytes;
    addon.tensorWrite(this.handle, raw ? data : encode(data, this.dtype));
  }

  /** Overwrites the numbers with those of a tensor of the same dtype and size on the same device. */
  copyFrom(other: Tensor): void {
    addon.tensorCopy(this.handle, other.handle);
  }

  /** The numbers, once everything queued before has run. bf16 is widened to f32. */
  async read(): Promise<TensorData> {
    const { dtype, layout } = this.#describe();
    if (layout !== 'plain') throw new DtypeError(`read: the tensor has layout ${layout}, expected plain`);
    const buffer = await addon.tensorRead(this.handle);
    switch (dtype) {
      case 'f32':
        return new Float32Array(buffer);
      case 'bf16':
        return bf16ToFloat32(new Uint16Array(buffer));
      case 'i32':
        return new Int32Array(buffer);
      case 'u8':
        return new Uint8Array(buffer);
      case 'i8':
        throw new DtypeError('read: i8 is the dtype of packed weights alone');
    }
  }

  /** The bytes as they are. */
  async readBytes(): Promise<Uint8Array> {
    return new Uint8Array(await addon.tensorRead(this.handle));
  }

  /** A number that changes with every in-place call on these bytes; the tape compares it. */
  get version(): number {
    return addon.tensorVersion(this.handle);
  }
  /** @internal After an in-place call was undone. */
  set version(version: number) {
    addon.tensorSetVersion(this.handle, version);
  }

  /** Where the bytes lie; equal for handles on the same buffer. */
  get address(): string {
    return addon.tensorAddress(this.handle);
  }
}

setTensorTest((value): value is Tensor => value instanceof Tensor);

function encode(data: TensorData | Uint16Array | readonly number[], dtype: DType): ArrayBufferView {
  switch (dtype) {
    case 'f32':
      return data instanceof Float32Array ? data : Float32Array.from(data);
    case 'bf16':
      return data instanceof Uint16Array
        ? data
        : float32ToBf16(data instanceof Float32Array ? data : Float32Array.from(data));
    case 'i32':
      return data instanceof Int32Array ? data : Int32Array.from(data);
    case 'u8':
      return data instanceof Uint8Array ? data : Uint8Array.from(data);
    default:
      throw new ArgumentError(`Tensor: 'dtype' is '${String(dtype)}', expected one of f32, bf16, i32, u8`);
  }
}
