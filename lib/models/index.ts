export type { ForwardContext, Hooks } from './hooks';
export { type Initializer, init } from './initializers';
export { load, saveVit, type VitOptions, vit, vitPresets } from './load';
export { type ComputeDtype, computeDtypes, type Retain, Vit, type VitConfig } from './vit';
