// Writes lib/native_kernels.ts, the TypeScript types of the raw kernels, from the addon's own description. With --check: fails when the file is stale.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const root = path.dirname(path.dirname(new URL(import.meta.url).pathname));
const target = path.join(root, 'lib', 'native_kernels.ts');

function optionType({ type, choices }) {
  if (type === 'boolean') return 'boolean';
  if (type === 'integers') return 'readonly number[]';
  if (type !== 'choice') return 'number';
  return choices
    .split(' ')
    .map((name) => `'${name}'`)
    .join(' | ');
}

function argument(field) {
  if (field.role === 'option') return `${field.name}${field.required ? '' : '?'}: ${optionType(field)} | undefined;`;
  const required = (field.role === 'in' || field.role === 'inOut') && !field.optional;
  const type = field.list ? 'readonly Tensor[]' : 'Tensor';
  return `/** ${field.role} [${field.spec.split(' ').join(', ')}] ${field.dtypes} */ ${field.name}${required ? '' : '?'}: ${type}${required ? '' : ' | undefined'};`;
}

function result(field) {
  return field.role === 'saved' ? `${field.name}?: Tensor;` : `${field.name}: Tensor;`;
}

const addon = createRequire(import.meta.url)('node-gyp-build')(root);
const kernels = Object.values(addon.kernels).map((kernel) => JSON.parse(kernel.describe()));
const text = `/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from './native';
import type { Tensor } from './tensor';

export interface Kernels {
${kernels
  .map(
    ({ kernel, fields }) => `  ${kernel}(
    args: {
${fields.map((field) => `      ${argument(field)}`).join('\n')}
    },
    flags?: CallFlags,
  ): {
${fields
  .filter(({ role }) => role === 'out' || role === 'saved')
  .map((field) => `    ${result(field)}`)
  .join('\n')}
  };`,
  )
  .join('\n')}
}
`;

if (process.argv.includes('--check')) {
  if (readFileSync(target, 'utf8') !== text) {
    console.error('lib/native_kernels.ts is stale: run node scripts/generate-kernels.mjs');
    process.exit(1);
  }
} else {
  writeFileSync(target, text);
}
