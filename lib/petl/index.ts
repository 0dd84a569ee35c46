export { type AdapterOptions, adapter } from './adapter';
export { type LoadAdapterOptions, load } from './adapter_file';
export { type AdaptFormerOptions, adaptFormer } from './adaptformer';
export { bitfit } from './bitfit';
export { type DtlOptions, type DtlPlusOptions, dtl, dtlPlus, dtlPlusStar } from './dtl';
export { full } from './full';
export { linear } from './linear';
export { checkWhole, define, type Method, type MethodDefinition, type ParameterSpec, refuseOption } from './method';

export { type ModelOptions, PetlModel, type Pool, type StepResult } from './model';
export { methodNamed, methodNames } from './registry';
export { ssf } from './ssf';
export { type VptOptions, vptDeep, vptShallow } from './vpt';
