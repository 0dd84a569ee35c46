export { loadCheckpoint, type Progress, saveCheckpoint } from './checkpoint';
export {
  type CompareOptions,
  type CompareProgress,
  type CompareRow,
  type CompareRun,
  type Comparison,
  compare,
  type RunInTurn,
} from './compare';
export { type EvaluateOptions, type Evaluation, evaluate } from './evaluate';
export { findNoahSizes, type NoahRunOptions } from './noah';
export { type Prediction, predict } from './predict';
export { type TrainOptions, type TrainProgress, type TrainSummary, train } from './train';
