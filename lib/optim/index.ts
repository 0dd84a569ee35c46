export { AdamW, type AdamWOptions, adamW, type Moments, type Parameter } from './adamw';
export { type CosineOptions, cosineSchedule } from './schedule';
