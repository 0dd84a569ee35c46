/** The only file that loads the addon. What it exports is raw: handles instead of tensors. */

import path from 'node:path';
import * as errors from './errors';
import { SidetuneError } from './errors';

/** A native handle: opaque, checked by the addon at every use. */
export type Handle = { readonly __handle: never };

export interface CallFlags {
  /** Make the outputs that only backward reads. */
  save?: boolean;
  /** Which outputs to make; those not named are made. */
  wanted?: Record<string, boolean>;
  /** What the allocated outputs are counted as. */
  kind?: string;
  /** Tests: outputs and scratch memory hold NaN before the kernel runs. */
  poison?: boolean;
}

export interface RawKernel {
  (args: object, flags?: CallFlags): Record<string, Handle>;
  describe(): string;
  measure(args: object, flags?: CallFlags): { bytes: number; flops: number };
}

/** A call that a device recorded; times are microseconds since the trace began. */
export interface TracedCall {
  kernel: string;
  /** Its number on the stream; reads have none. */
  call?: number;
  /** The part of the model that queued it, see lib/label.ts. */
  label: string;
  /** A kernel's tensors and options. */
  text: string;
  /** That must move. */
  bytes: number;
  flops: number;
  /** When JavaScript began the call, and when it was done with it. */
  begun: number;
  queued: number;
  /** When it ran; missing in calls that have not. */
  ranFrom?: number;
  ranTo?: number;
}

export interface Addon {
  initialize(classes: object): void;
  /** Tensors that the garbage collector freed instead of dispose(). */
  finalizedTensors(): number;
  /** Bytes outside its heap that V8 knows of, by everybody. */
  externalMemory(): number;
  deviceOpen(name: string, options: object): Handle;
  deviceCount(backend: string): number;
  deviceClose(device: Handle): void;
  deviceSynchronize(device: Handle): Promise<void>;
  deviceMemory(device: Handle): unknown;
  deviceResetPeak(device: Handle): void;
  deviceDescribe(device: Handle): string;
  deviceCheckGuards(device: Handle): Promise<string | null>;
  deviceFailOnPurpose(device: Handle): void;
  deviceStartTrace(device: Handle, maxCalls: number): void;
  deviceTraceLabel(device: Handle, label: string): void;
  deviceStopTrace(device: Handle): { calls: TracedCall[]; droppedCalls: number };
  deviceStartRecording(device: Handle, inputs: Handle[]): Handle;
  deviceStopRecording(device: Handle, replay: Handle, results: Handle[]): void;
  deviceDropRecording(device: Handle): void;
  replayInputs(replay: Handle): Handle[];
  replayRun(replay: Handle): Handle[];
  replayObstacle(replay: Handle): string | undefined;
  replayDispose(replay: Handle): void;
  replayCalls(replay: Handle): number;
  tensorCreate(device: Handle, shape: readonly number[], dtype: string, kind: string, layout: string): Handle;
  tensorDispose(tensor: Handle): void;
  tensorAlias(tensor: Handle, shape?: readonly number[]): Handle;
  tensorPart(tensor: Handle, first: number, count: number): Handle;
  tensorTransposed(tensor: Handle): Handle | undefined;
  tensorWrite(tensor: Handle, data: ArrayBufferView): void;
  tensorZero(tensor: Handle): void;
  tensorRead(tensor: Handle): Promise<ArrayBuffer>;
  tensorCopy(to: Handle, from: Handle): void;
  tensorDescribe(tensor: Handle): unknown;
  tensorDisposed(tensor: Handle): boolean;
  tensorVersion(tensor: Handle): number;
  tensorSetVersion(tensor: Handle, version: number): void;
  tensorAddress(tensor: Handle): string;
  kernels: Record<string, RawKernel>;
}

// From lib/ and from dist/lib/ alike: the package's root is where its CMakeLists.txt lies.
function packageRoot(): string {
  const parent = path.dirname(__dirname);
  return path.basename(parent) === 'dist' ? path.dirname(parent) : parent;
}

function load(): Addon {
  const root = packageRoot();
  const chosen = process.env.SIDETUNE_ADDON; // a build of one's own, such as the one with sanitizers
  try {
    const addon = (chosen ? require(path.resolve(chosen)) : require('node-gyp-build')(root)) as Addon;
    addon.initialize(errors);
    return addon;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause);
    const library = /lib(dnnl|gomp|hwy)[^ :]*/.exec(reason ?? '')?.[0];
    const packages: Record<string, string> = { dnnl: 'libdnnl2', gomp: 'libgomp1', hwy: 'libhwy1' };
    const advice = library
      ? `install it with: apt-get install ${packages[library.slice(3).replace(/[^a-z].*/, '')]}`
      : `build it from source with: npm run build:native (in ${root}; needs a C++ compiler, CMake, libdnnl-dev and libhwy-dev)`;
    throw new SidetuneError('SIDETUNE_LOAD', `the native addon cannot be loaded: ${reason}; ${advice}`, { cause });
  }
}

export const addon: Addon = load();
