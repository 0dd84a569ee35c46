// Writes lib/native_kernels/, the TypeScript types of the raw kernels, a file for each family, from the addon's own description. With --check: fails when a file is
// stale.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const root = path.dirname(path.dirname(new URL(import.meta.url).pathname));
const folder = path.join(root, 'lib', 'native_kernels');

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

function signature({ kernel, fields }) {
  const results = fields.filter(({ role }) => role === 'out' || role === 'saved');
  return `  ${kernel}(
    args: {
${fields.map((field) => `      ${argument(field)}`).join('\n')}
    },
    flags?: CallFlags,
  ): {
${results.map((field) => `    ${result(field)}`).join('\n')}
  };`;
}

/** 'layer_norm' → 'LayerNormKernels' */
const typeOf = (family) => `${family.replace(/(?:^|_)([a-z])/g, (_, letter) => letter.toUpperCase())}Kernels`;

const head =
  "/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */";
const addon = createRequire(import.meta.url)('node-gyp-build')(root);
const described = new Map(
  Object.values(addon.kernels)
    .map((kernel) => JSON.parse(kernel.describe()))
    .map((each) => [each.kernel, each]),
);
const families = new Map();
for (const [, family, name] of readFileSync(path.join(root, 'native', 'kernels.def'), 'utf8').matchAll(
  /^KERNEL\((\w+), (\w+)\)/gm,
)) {
  families.set(family, [...(families.get(family) ?? []), described.get(name[0].toLowerCase() + name.slice(1))]);
}

const texts = new Map(
  [...families].map(([family, kernels]) => [
    `${family}.ts`,
    `${head}

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface ${typeOf(family)} {
${kernels.map(signature).join('\n')}
}
`,
  ]),
);
const names = [...families.keys()].sort();
texts.set(
  'index.ts',
  `${head}

${names.map((family) => `import type { ${typeOf(family)} } from './${family}';`).join('\n')}

export interface Kernels
  extends ${names.map(typeOf).join(',\n    ')} {}
`,
);

mkdirSync(folder, { recursive: true });
const extra = readdirSync(folder).filter((file) => !texts.has(file));
if (process.argv.includes('--check')) {
  const there = readdirSync(folder);
  const stale = [...texts].filter(
    ([file, text]) => !there.includes(file) || readFileSync(path.join(folder, file), 'utf8') !== text,
  );
  if (stale.length + extra.length > 0) {
    console.error('lib/native_kernels is stale: run node scripts/generate-kernels.mjs');
    process.exit(1);
  }
} else {
  for (const file of extra) rmSync(path.join(folder, file));
  for (const [file, text] of texts) writeFileSync(path.join(folder, file), text);
}
