import { type Reference, reference } from './array';
import { depthwiseConv } from './depthwise_conv';
import { swish } from './swish';

export interface SideInjectReferenceOptions {
  beta?: number;
  grid?: readonly [number, number];
  prefixTokens?: number;
}

export function sideInject(
  z: Reference,
  h: Reference,
  weight: Reference | undefined,
  { beta = 100, grid, prefixTokens }: SideInjectReferenceOptions,
): Reference {
  const theta = swish(h, beta);
  const injected = weight ? depthwiseConv(theta, weight, grid!, prefixTokens) : theta;
  return reference(z.shape, (i) => z.data[i]! + injected.data[i]!);
}
