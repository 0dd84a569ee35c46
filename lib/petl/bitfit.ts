import { define } from './method';

/** BitFit: every bias of the backbone is trained, LayerNorm's shifts and the patch convolution's among them; scales stay frozen. */
export const bitfit = define('bitfit', {}, { trains: (name) => name.endsWith('.bias'), pool: 'cls', pure: true });
