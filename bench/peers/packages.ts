/** This folder in the checkout, from the sources as from dist, and the packages that only it has. */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { FileError } from '../../lib/errors';

// tsc copies neither the package file nor what is not TypeScript to dist/bench/peers.
const folder = existsSync(join(__dirname, 'package.json')) ? __dirname : join(__dirname, '../../../bench/peers');

/** A file of this folder that tsc does not compile. */
export function peersFile(name: string): string {
  return join(folder, name);
}

/**
 * A package of bench/peers/package.json.
 * @throws FileError when it is not installed
 */
export function requirePackage(name: string): unknown {
  try {
    return createRequire(peersFile('package.json'))(name);
  } catch (cause) {
    throw new FileError(`package '${name}' of bench/peers could not be loaded; run: npm ci --prefix bench/peers`, {
      argument: name,
      cause,
    });
  }
}
