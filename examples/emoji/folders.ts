/**
 * The main job's pictures as folders, one for each category, for the command line: `node dist/examples/emoji/folders.js DIR` fills DIR/train and DIR/test with
 * links to the packages' files.
 */

import { mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import type { Dataset } from '../../lib/data';
import { adaptation, type EmojiSample } from './dataset';

/** 'Smileys & Emotion' → 'smileys-emotion'. */
function folderName(category: string): string {
  return category.toLowerCase().replace(/[^a-z]+/g, '-');
}

function link(dataset: Dataset<EmojiSample>, folder: string): void {
  rmSync(folder, { recursive: true, force: true });
  for (const { path, category } of dataset.samples) {
    const target = join(folder, folderName(category));
    mkdirSync(target, { recursive: true });
    symlinkSync(resolve(path), join(target, basename(path)));
  }
}

export function writeFolders(folder: string): void {
  const { train, test } = adaptation();
  link(train, join(folder, 'train'));
  link(test, join(folder, 'test'));
}

if (require.main === module) {
  const [folder] = process.argv.slice(2);
  if (folder === undefined) {
    console.error('expected a folder: node dist/examples/emoji/folders.js DIR');
    process.exitCode = 2;
  } else {
    writeFolders(folder);
  }
}
