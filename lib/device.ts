import { ArgumentError } from './errors';
import { isLabelling, startLabels, stopLabels } from './label';
import { addon, type Handle } from './native';
import { type Recorded, type ReplayInputs, record } from './replay';
import { completeTraceOptions, makeTrace, type Trace, type TraceOptions } from './trace';

/** What memory is used for; reports count bytes by kind. */
export type Kind = 'weights' | 'side' | 'activations' | 'gradients' | 'optimizer' | 'workspace' | 'data';

export type BytesByKind = Record<Kind, number>;

export interface MemoryReport {
  /** Bytes in use now. Deterministic: a given program has the same figures on every machine with the same GEMM library. */
  currentBytes: number;
  /** Highest `currentBytes` since the device was opened or `resetPeak()` was called. */
  peakBytes: number;
  limitBytes: number;
  /** Blocks of memory in use. */
  blocks: number;
  current: BytesByKind;
  /** Bytes by kind at the moment of the peak; they add up to `peakBytes`. */
  atPeak: BytesByKind;
  /** The highest figure of each kind on its own. */
  peak: BytesByKind;
}

export interface DeviceOptions {
  /**
   * Threads of kernels on a CPU device, from 1 to four for each core. Default: SIDETUNE_NUM_THREADS, OMP_NUM_THREADS (its first number, at most all cores),
   * or the cores that this process may use. While other devices compute too, kernels run on fewer; no result depends on it.
   */
  threads?: number;
  /** On a CUDA device: f32 products may round their operands to 10 bits of mantissa, which tensor cores multiply. Default false. */
  tf32?: boolean;
  /** Bytes that tensors and scratch memory may take together. Default: the machine's memory. */
  memoryLimit?: number;
  /** Count memory and check calls, but compute nothing: answers how much a program needs in milliseconds. Nothing can be read. */
  plan?: boolean;
  /** For tests: guard bytes around every block, see {@link Device.checkGuards}. */
  guards?: boolean;
}

/** What a CPU device computes with. */
export interface CpuInfo {
  backend: 'cpu';
  processor: string;
  /** Threads of kernels, at most. */
  threads: number;
  /** Cores that this process may use. */
  cores: number;
  /** The widest SIMD instruction set that the kernels use here. */
  simd: string;
  /** The GEMM library and what it dispatches to. */
  gemm: string;
  /** Whether bf16 products run natively; elsewhere their operands are widened first. */
  bf16Gemm: boolean;
  /** Into how many steps int8 products divide a row of tokens: 255, or 127 on processors without VNNI. */
  int8Levels: number;
}

/** What a CUDA device computes with. */
export interface CudaInfo {
  backend: 'cuda';
  processor: string;
  multiprocessors: number;
  /** Such as '9.0'. */
  computeCapability: string;
  gemm: string;
  bf16Gemm: boolean;
  /** Whether f32 products may round their operands to 10 bits. */
  tf32: boolean;
}

export type DeviceInfo = CpuInfo | CudaInfo;

/** A device that can be opened here, or why there is none of its kind. */
export interface DeviceListing {
  name: string;
  /** Why it cannot be opened; missing where it can. */
  reason?: string;
}

const knownOptions = ['threads', 'tf32', 'memoryLimit', 'plan', 'guards'];

/**
 * A device: memory and one in-order stream of kernel calls, which runs on a native thread of its own. Calls return at once; `await tensor.read()` and
 * `await device.synchronize()` wait, and errors that happen late arrive there.
 */
export class Device {
  readonly name: string;
  readonly plan: boolean;
  /** @internal */
  readonly handle: Handle;
  #traceLabel = '';
  #closing: Promise<void> | undefined;

  private constructor(name: string, handle: Handle, plan: boolean) {
    this.name = name;
    this.handle = handle;
    this.plan = plan;
  }

  /**
   * Opens a device.
   * @param name - `'cpu'`, or `'cuda'`, `'cuda:0'`, `'cuda:1'`, …
   * @throws DeviceError (SIDETUNE_NO_BACKEND) when there is no such device here, with what was looked for; ArgumentError for options, SIDETUNE_NUM_THREADS
   * and SIDETUNE_SIMD
   */
  static async open(name = 'cpu', options: DeviceOptions = {}): Promise<Device> {
    for (const option of Object.keys(options)) {
      if (!knownOptions.includes(option)) {
        throw new ArgumentError(`Device.open: unknown option '${option}', known: ${knownOptions.join(', ')}`, {
          kernel: 'Device.open',
          argument: option,
        });
      }
    }
    return new Device(name, addon.deviceOpen(name, options), options.plan === true);
  }

  /** The devices of this machine. Where there can be no CUDA device, `'cuda'` is listed with the reason. */
  static list(): DeviceListing[] {
    try {
      const cuda = Array.from({ length: addon.deviceCount('cuda') }, (_, index) => ({ name: `cuda:${index}` }));
      return [
        { name: 'cpu' },
        ...(cuda.length > 0 ? cuda : [{ name: 'cuda', reason: 'the driver finds no CUDA device' }]),
      ];
    } catch (error) {
      return [{ name: 'cpu' }, { name: 'cuda', reason: (error as Error).message }];
    }
  }

  /** Resolves when everything queued so far has run. Rejects with the first error of a queued call; afterwards the device works again. */
  async synchronize(): Promise<void> {
    await addon.deviceSynchronize(this.handle);
  }

  memory(): MemoryReport {
    return addon.deviceMemory(this.handle) as MemoryReport;
  }

  /** Starts the peak figures of {@link memory} anew from what is in use now. */
  resetPeak(): void {
    addon.deviceResetPeak(this.handle);
  }

  info(): DeviceInfo {
    return JSON.parse(addon.deviceDescribe(this.handle)) as DeviceInfo;
  }

  get closed(): boolean {
    return this.#closing !== undefined;
  }

  /** Waits for what is queued, then stops the stream. Tensors that are left can only be disposed. Rejects, closed all the same, with a late error. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      await addon.deviceSynchronize(this.handle);
    } finally {
      addon.deviceClose(this.handle);
      stopLabels(this.handle);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Makes the calls in `body` and records them: {@link Recorded.replay} makes them again. Between runs the recording holds no memory.
   * `body` may not write to tensors, read from them or draw random numbers: a replay would repeat the bytes of now. That is what inputs are for.
   * @param inputs - tensors by name, taken over: they are disposed when the recording ends, by `body` if it wants to before; each run fills them anew
   * @param body - makes the calls and returns a tensor, or tensors in arrays, plain objects, maps and sets
   * @throws what `body` throws, and then nothing is recorded; DeviceError when calls are being recorded already; ArgumentError when `body` keeps an input or
   * returns a tensor that was there before
   * @example
   * const x = Tensor.from(device, image, [1, 3, 224, 224]);
   * const { replay, result } = device.record({ x }, ({ x }) => scope(() => ops.gelu(ops.linear(x, weight))));
   * result.dispose();
   * const again = replay.run(({ x }) => x.write(nextImage));
   */
  record<Inputs extends ReplayInputs, Result>(
    inputs: Inputs,
    body: (inputs: Inputs) => Result,
  ): Recorded<Inputs, Result> {
    return record(this, inputs, body);
  }

  /** Whether calls are being traced. */
  get tracing(): boolean {
    return isLabelling(this.handle);
  }

  /**
   * Records every call from now on: kernels, copies, writes, reads. While nothing is recorded it costs nothing.
   * @throws ArgumentError for options; DeviceError on a planning or closed device, and while a trace is being recorded
   */
  startTrace(options: TraceOptions = {}): void {
    const { label, maxCalls } = completeTraceOptions(options);
    addon.deviceStartTrace(this.handle, maxCalls);
    this.#traceLabel = label;
    startLabels(this.handle);
  }

  /**
   * Waits for what is queued and ends the trace. On a closed device it has what ran before.
   * Rejects with a late error as {@link synchronize} does; the recording goes on then, so a second call gives the trace.
   * @throws DeviceError when no trace is being recorded
   */
  async stopTrace(): Promise<Trace> {
    await (this.#closing?.catch(() => {}) ?? this.synchronize()); // close() hands out its late error itself
    const { calls, droppedCalls } = addon.deviceStopTrace(this.handle);
    stopLabels(this.handle);
    const facts = { device: this.name, ...this.info(), node: process.version };
    return makeTrace(calls, { label: this.#traceLabel, ...facts, droppedCalls });
  }

  /** For tests, on a device opened with `guards`: what was overwritten around a block, or null. */
  checkGuards(): Promise<string | null> {
    return addon.deviceCheckGuards(this.handle);
  }
}
