export { check, type GradientCheck, type GradientCheckOptions } from './check';
export { checkpoint } from './checkpoint';
export { type Retained, Tape } from './tape';
export {
  block,
  type GradientsOf,
  noGrad,
  type Parameters,
  type ValueAndGradOptions,
  valueAndGrad,
} from './value_and_grad';
