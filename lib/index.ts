/** sidetune: fine-tunes frozen vision transformers through a small side network. This file holds the public names and nothing else. */

export * as autograd from './autograd';
export * as data from './data';
export {
  type BytesByKind,
  type CpuInfo,
  type CudaInfo,
  Device,
  type DeviceInfo,
  type DeviceListing,
  type DeviceOptions,
  type Kind,
  type MemoryReport,
} from './device';
export * from './errors';
export * as io from './io/safetensors';
export * as models from './models';
export * as ops from './ops';
export * as optim from './optim';
export * as petl from './petl';
export { type Recorded, Replay, type ReplayInputs } from './replay';
export { keep, scope } from './scope';
export { type DType, type Layout, Tensor, type TensorData, type TensorOptions } from './tensor';
export {
  joinTraces,
  type Trace,
  type TraceEvent,
  type TraceOptions,
  type TraceRow,
  type TraceSummary,
  traced,
  traceSummary,
  writeTrace,
} from './trace';
export * as train from './train';
