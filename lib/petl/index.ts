export { type AdapterOptions, adapter } from './adapter';
export { type AdapterListing, type LoadAdapterOptions, listAdapters, load } from './adapter_file';
export { type AdaptFormerOptions, adaptFormer } from './adaptformer';
export { bitfit } from './bitfit';
export { check, type MethodCheckOptions } from './check';
export { type DtlOptions, type DtlPlusOptions, dtl, dtlPlus, dtlPlusStar } from './dtl';
export { type FactOptions, factTk, factTt } from './fact';
export { full } from './full';
export { linear } from './linear';
export { type LoraOptions, lora } from './lora';
export { type LstOptions, lst } from './lst';
export {
  checkFinite,
  checkRate,
  checkWhole,
  define,
  type Method,
  type MethodDefinition,
  type ParameterSpec,
  refuseOption,
} from './method';
export {
  type InitializeContext,
  type InitializeOptions,
  PetlModel,
  type StepResult,
  type TrainingBatch,
} from './model';
export { type ModelOptions, type Pool, pools } from './model_options';
export {
  type NoahOptions,
  type NoahSizes,
  type NoahSupernetOptions,
  noah,
  noahParameterCount,
  noahSupernet,
  uniformSizes,
} from './noah';
export {
  type Draw,
  drawNoahSizes,
  type NoahCandidate,
  type NoahSearchOptions,
  type NoahSpace,
  searchNoah,
} from './noah_search';
export { methodNamed, methodNames } from './registry';
export { ssf } from './ssf';
export { type VptOptions, vptDeep, vptShallow } from './vpt';
