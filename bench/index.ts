/** The benches as functions; `sidetune bench` prints what they return. */
export type { Control, Place, Result, Tracing } from './control';
export {
  type Column,
  type Compute,
  host,
  type KernelRow,
  type Report,
  type Summary,
  table,
  writeReport,
} from './harness';
export { type KernelsOptions, kernelBenches, kernels } from './kernels';
export { kinds, type MemoryRow, memory } from './memory';
export { type PaperFigures, paperMemory, paperThroughput, paperUnits } from './paper';
export { memoryPlot } from './plot';
export { type Setup, type SetupLists, setups, tableMethods } from './setup';
export { type ThroughputOptions, type ThroughputRow, throughput } from './throughput';
export { type TrainOptions, type TrainRow, train } from './train';
export { type UnitsRow, units } from './units';
