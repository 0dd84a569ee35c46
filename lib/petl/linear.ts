import { define } from './method';

/** Linear probing: the backbone stays as it is, the head is trained (METHODS 3.2). */
export const linear = define('linear', {}, { frozenBlocks: ({ config }) => config.depth, pure: true });
