export { checkpoint } from './checkpoint';
export { type Retained, Tape } from './tape';
export { block, type GradientsOf, noGrad, type Parameters, valueAndGrad, type ValueAndGradOptions } from './value_and_grad';
