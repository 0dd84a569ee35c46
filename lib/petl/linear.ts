import { define } from './method';

/** Linear probing: the backbone stays as it is, the head is trained. */
export const linear = define('linear', {}, { frozenBlocks: ({ config }) => config.depth, pure: true });
