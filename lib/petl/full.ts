import { define } from './method';

/**
 * Full fine-tuning: every tensor of the backbone is trained, from its value in the backbone's dtype, as an f32 master copy. One-dimensional
 * tensors, CLS and positions do not decay.
 */
export const full = define('full', {}, { trains: () => true, pure: true });
