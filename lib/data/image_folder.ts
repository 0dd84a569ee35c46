/** Data sets on disk: one folder per class, or a list file as VTAB-1K and FGFS have them. */
import { type Dirent, readdirSync, readFileSync, statSync } from 'node:fs';
import { extname, isAbsolute, join, normalize, sep } from 'node:path';
import { ArgumentError, FormatError } from '../errors';
import { fileError } from '../io/atomic';
import { checkChoice, checkInteger, checkOptions, describe, refuse } from './arguments';
import { BATCH_OPTIONS, type BatchOptions } from './batch';
import { type Dataset, makeDataset, type OnBadImage, type Sample } from './dataset';

/** Names that are taken for images, in lower case; what is inside a file decides when it is read. */
const EXTENSIONS = new Set(['.png', '.jpg', '.jpeg', '.webp', '.gif', '.avif', '.tif', '.tiff']);

/** Options of {@link imageFolder}; those of batches are the data set's defaults. */
export interface ImageFolderOptions extends Partial<BatchOptions> {
  /** The classes and their order, for example those of the training set. Other folders are then left out. Default: all folders, sorted. */
  classes?: readonly string[];
  /** What to do with an image that cannot be read. Default `'stop'`. */
  onBadImage?: OnBadImage;
}

/** Options of {@link imageList}; those of batches are the data set's defaults. */
export interface ImageListOptions extends Partial<BatchOptions> {
  /** Names of the classes, or how many there are. Default: as many as the largest label says, named by their number. */
  classes?: readonly string[] | number;
  /** What to do with an image that cannot be read. Default `'stop'`. */
  onBadImage?: OnBadImage;
}

/** Order by UTF-16 code units: the same on every machine, whatever its language is. */
function byCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function entriesOf(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true }).sort((a, b) => byCodeUnits(a.name, b.name));
  } catch (cause) {
    throw fileError('read', folder, cause);
  }
}

/** Follows links, which a `Dirent` does not. */
function isFolder(parent: string, entry: Dirent): boolean {
  if (!entry.isSymbolicLink()) return entry.isDirectory();
  return statSync(join(parent, entry.name), { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function splitOptions(options: ImageFolderOptions | ImageListOptions): Partial<BatchOptions> {
  const { classes: _classes, onBadImage: _onBadImage, ...defaults } = options;
  return defaults;
}

function checkClassNames(kernel: string, names: readonly unknown[]): void {
  if (names.length === 0) throw refuse(kernel, 'classes', names, 'at least one class');
  const seen = new Set<unknown>();
  for (const name of names) {
    if (typeof name !== 'string' || name === '') throw refuse(kernel, 'classes', names, 'names that are not empty');
    if (seen.has(name)) throw refuse(kernel, 'classes', names, `each name once, but '${name}' comes twice`);
    seen.add(name);
  }
}

/**
 * The images `root/<class>/*.{png,jpg,jpeg,webp,gif,avif,tif,tiff}`. Folders and files are taken in the order of their names (code units), so labels are
 * the same on every machine. Other files and names that begin with a dot are passed over; folders inside a class folder are not entered.
 * No image is opened here.
 * @param root - folder with one folder per class
 * @param options - see {@link ImageFolderOptions}
 * @throws FileError if `root` is missing; ArgumentError if it has no class folders, if one holds no images, or if a name of `classes` has no folder
 * @example for await (const batch of imageFolder('pets/train', { batchSize: 32, size: 224 })) …
 */
export function imageFolder(root: string, options: ImageFolderOptions = {}): Dataset {
  const name = 'imageFolder';
  checkOptions(name, options, ['classes', 'onBadImage', ...BATCH_OPTIONS]);
  const onBadImage = checkChoice(name, 'onBadImage', options.onBadImage ?? 'stop', ['stop', 'skip']);
  const folders = entriesOf(root)
    .filter((entry) => !entry.name.startsWith('.') && isFolder(root, entry))
    .map((entry) => entry.name);
  if (folders.length === 0) {
    throw new ArgumentError(`${name}: '${root}' holds no folders, expected one folder of images per class`, {
      kernel: name,
      argument: 'root',
      got: root,
    });
  }
  const classes = options.classes === undefined ? folders : [...options.classes];
  checkClassNames(name, classes);
  const samples: Sample[] = [];
  classes.forEach((className, label) => {
    if (!folders.includes(className)) {
      throw new ArgumentError(
        `${name}: class '${className}' of 'classes' has no folder in '${root}'; folders: ${describe(folders)}`,
        {
          kernel: name,
          argument: 'classes',
          got: className,
        },
      );
    }
    samples.push(...imagesOf(join(root, className), className).map((path) => ({ path, label })));
  });
  return makeDataset({ classes, samples, onBadImage, defaults: splitOptions(options) });
}

function imagesOf(folder: string, className: string): string[] {
  const entries = entriesOf(folder).filter((entry) => !entry.name.startsWith('.'));
  const images = entries.filter(
    (entry) => EXTENSIONS.has(extname(entry.name).toLowerCase()) && !isFolder(folder, entry),
  );
  if (images.length > 0) return images.map((entry) => join(folder, entry.name));
  const found =
    entries.length === 0
      ? 'is empty'
      : `holds no image (${entries.length} other ${entries.length === 1 ? 'entry' : 'entries'})`;
  throw new ArgumentError(
    `imageFolder: the folder of class '${className}', ${folder}, ${found}, expected files that end in ${[...EXTENSIONS].join(' ')}`,
    { kernel: 'imageFolder', argument: 'root', got: folder },
  );
}

/**
 * The images of a list file with one `relative/path label` per line. The LAST space separates, so paths may hold spaces; empty lines are passed
 * over; a path may come more than once. No image is opened here.
 * @param root - folder that the paths are relative to
 * @param listFile - for example 'train800val200.txt' of VTAB-1K
 * @param options - see {@link ImageListOptions}
 * @throws FileError if the list is missing; FormatError, with the line, for a line without a label, a label that is not an integer or outside `classes`,
 *   a path that leaves `root`, or a list without images
 */
export function imageList(root: string, listFile: string, options: ImageListOptions = {}): Dataset {
  const name = 'imageList';
  checkOptions(name, options, ['classes', 'onBadImage', ...BATCH_OPTIONS]);
  const onBadImage = checkChoice(name, 'onBadImage', options.onBadImage ?? 'stop', ['stop', 'skip']);
  const { classes } = options;
  if (typeof classes === 'number') checkInteger(name, 'classes', classes, { low: 1, high: 2 ** 24 });
  else if (classes !== undefined) checkClassNames(name, classes);
  const classCount = typeof classes === 'object' ? classes.length : classes;

  let text: string;
  try {
    text = readFileSync(listFile, 'utf8');
  } catch (cause) {
    throw fileError('read', listFile, cause);
  }
  const samples: Sample[] = [];
  let largest = 0;
  text
    .replace(/^\uFEFF/, '')
    .split('\n')
    .forEach((raw, index) => {
      const line = raw.trim();
      if (line === '') return;
      const { path, label } = parseLine(line, classCount, `${listFile}:${index + 1}`);
      largest = Math.max(largest, label);
      samples.push({ path: join(root, path), label });
    });
  if (samples.length === 0) {
    throw new FormatError(`${listFile}: holds no images, expected lines 'relative/path label'`, {
      kernel: name,
      argument: listFile,
    });
  }
  const names =
    typeof classes === 'object' ? [...classes] : Array.from({ length: classCount ?? largest + 1 }, (_, i) => String(i));
  return makeDataset({ classes: names, samples, onBadImage, defaults: splitOptions(options) });
}

/** Labels above this are taken for a damaged list rather than for a list of that many classes. */
const LARGEST_LABEL = 2 ** 24 - 1;

function parseLine(line: string, classCount: number | undefined, place: string): Sample {
  const bad = (got: string, expected: string) =>
    new FormatError(`${place}: ${got}, expected ${expected}`, { kernel: 'imageList', argument: place, got, expected });
  const space = line.lastIndexOf(' ');
  if (space < 0) throw bad(`'${line}' has no space`, "'relative/path label'");
  const path = line.slice(0, space).trim();
  const word = line.slice(space + 1);
  if (!/^\d{1,8}$/.test(word)) throw bad(`the label is '${word}'`, 'an integer of at least 0');
  const label = Number(word);
  const highest = classCount === undefined ? LARGEST_LABEL : classCount - 1;
  if (label > highest)
    throw bad(`the label is ${label}`, `0 to ${highest}${classCount === undefined ? '' : ` (from 'classes')`}`);
  if (isAbsolute(path) || normalize(path).split(sep)[0] === '..')
    throw bad(`the path is '${path}'`, 'a path inside the root folder');
  return { path, label };
}
