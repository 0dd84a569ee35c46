/**
 * The images of the emoji transfer example. A concept is one emoji (its `unified` code, without skin tone); the same concept is drawn by
 * Google and by Twitter. A quarter of the concepts is held out of everything that is trained on, in both drawings and in all skin tones:
 *
 *     pretraining()  Google   98 subcategories   train: concepts not held out, with skin tones     test: held-out concepts
 *     adaptation()   Twitter  9 categories       train: 1,000 concepts not held out                test: held-out concepts
 *
 * A few concepts share one picture (the flags of France and Clipperton Island, most families in Twitter's drawing). A training image whose
 * file equals that of a held-out concept is left out, so no test picture has been seen under another name.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { type Dataset, makeDataset, type Sample } from '../../lib/data';
import { FileError, FormatError } from '../../lib/errors';

export type Vendor = 'google' | 'twitter';

/** One picture. */
export interface EmojiSample extends Sample {
  /** For people, for example 'grinning face' or 'waving hand sign (medium skin tone)'. */
  name: string;
  /** The first short name of emoji.json, for example 'grinning'. */
  shortName: string;
  /** `unified` code of the emoji without skin tone; what the split goes by. */
  concept: string;
  category: string;
  subcategory: string;
}

/** Training images and images of held-out concepts, with the same classes. */
export interface Split {
  train: Dataset<EmojiSample>;
  test: Dataset<EmojiSample>;
}

/** The smallest seed (from 0 up) that leaves every one of the 98 subcategories an image to pre-train on. */
export const SPLIT_SEED = 3;
/** Pictures are 64 × 64 pixels. */
export const IMAGE_SIZE = 64;
/** Training images of {@link adaptation}. */
export const ADAPTATION_IMAGES = 1000;

const HELD_OUT_PART = 0.25;
/** The version the split and the pre-trained weights were made with. */
const PACKAGE_VERSION = '16.0.0';
const INSTALL = 'npm ci --prefix examples/emoji';

/** What is used of an entry of emoji.json. */
interface Entry {
  name: string | null;
  unified: string;
  image: string;
  short_name: string;
  category: string;
  subcategory: string;
  has_img_google: boolean;
  has_img_twitter: boolean;
  skin_variations?: Record<string, Pick<Entry, 'image' | 'has_img_google' | 'has_img_twitter'>>;
}

const SKIN_TONES: Record<string, string> = {
  '1F3FB': 'light',
  '1F3FC': 'medium-light',
  '1F3FD': 'medium',
  '1F3FE': 'medium-dark',
  '1F3FF': 'dark',
};

/** A number of [0, 1) that depends on nothing but the text: the first 32 bits of its SHA-256. */
function hashed(text: string): number {
  return createHash('sha256').update(text).digest().readUInt32BE(0) / 2 ** 32;
}

/**
 * Whether a concept is held out: a function of its code and the seed alone, so it cannot change with the packages, the order of emoji.json
 * or the number of emojis.
 * @param unified - code of the emoji without skin tone, as in emoji.json
 */
export function isHeldOut(unified: string, seed = SPLIT_SEED): boolean {
  return hashed(`${seed}:held out:${unified}`) < HELD_OUT_PART;
}

/** Orders concepts for the choice of the training images; as independent of everything else as {@link isHeldOut}. */
function trainingRank(unified: string): number {
  return hashed(`${SPLIT_SEED}:training:${unified}`);
}

/** The folder with the package.json of this example, from the source file and from its compiled copy alike. */
export function exampleFolder(): string {
  for (let folder = __dirname; ; folder = dirname(folder)) {
    for (const candidate of [folder, join(folder, 'examples', 'emoji')]) {
      const manifest = join(candidate, 'package.json');
      if (existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).name === 'sidetune-example-emoji')
        return candidate;
    }
    if (folder === dirname(folder)) {
      throw new FileError(`the folder examples/emoji with its package.json was not found above ${__dirname}`);
    }
  }
}

/**
 * The folder of an image package, found as Node finds it from examples/emoji.
 * @param from - folder to look from; for tests
 * @throws FileError if it is not installed and FormatError if it is another version; both say which command helps
 */
export function packageFolder(vendor: Vendor, from: string = exampleFolder()): string {
  const name = `emoji-datasource-${vendor}`;
  let manifest: string;
  try {
    manifest = createRequire(join(from, 'package.json')).resolve(`${name}/package.json`);
  } catch (cause) {
    throw new FileError(`the images of this example, package '${name}', are not installed; run: ${INSTALL}`, {
      argument: name,
      cause,
    });
  }
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string };
  if (version !== PACKAGE_VERSION) {
    throw new FormatError(
      `'${name}' is installed as version ${version}, expected ${PACKAGE_VERSION}, which the split was made with; run: ${INSTALL}`,
      { argument: name, got: version, expected: PACKAGE_VERSION },
    );
  }
  return dirname(manifest);
}

/** 'FATHER CHRISTMAS' → 'father christmas'; names that are written in mixed case stay. */
function readable(entry: Entry): string {
  const name = entry.name ?? entry.short_name.replaceAll(/[-_]/g, ' ');
  return name === name.toUpperCase() ? name.toLowerCase() : name;
}

/** The first picture in the list is the one without skin tone. */
function pictures(entry: Entry, vendor: Vendor): { name: string; image: string; plain: boolean }[] {
  const name = readable(entry);
  const toned = Object.entries(entry.skin_variations ?? {}).map(([code, variation]) => {
    const tones = code.split('-').map((part) => SKIN_TONES[part] ?? part);
    return { ...variation, name: `${name} (${tones.join(' and ')} skin tone)`, plain: false };
  });
  return [{ ...entry, name, plain: true }, ...toned].filter((picture) => picture[`has_img_${vendor}`]);
}

/** A picture before its class is known. */
type Picture = Omit<EmojiSample, 'label'> & { plain: boolean };

/** All pictures of a vendor but the category 'Component' (bare skin-tone swatches), in the order of emoji.json. */
function readPictures(vendor: Vendor): Picture[] {
  const folder = packageFolder(vendor);
  const entries = JSON.parse(readFileSync(join(folder, 'emoji.json'), 'utf8')) as Entry[];
  return entries
    .filter((entry) => entry.category !== 'Component')
    .flatMap((entry) =>
      pictures(entry, vendor).map(({ name, image, plain }) => ({
        path: join(folder, 'img', vendor, String(IMAGE_SIZE), image),
        name,
        plain,
        shortName: entry.short_name,
        concept: entry.unified,
        category: entry.category,
        subcategory: entry.subcategory,
      })),
    );
}

function contentHash(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('base64');
}

/** Held-out pictures (without skin tones) and the others, less those that look exactly like a held-out one. */
function splitPictures(all: readonly Picture[]): { held: Picture[]; free: Picture[] } {
  const held = all.filter(({ concept, plain }) => plain && isHeldOut(concept));
  const heldContents = new Set(held.map(({ path }) => contentHash(path)));
  const free = all.filter(({ concept, path }) => !isHeldOut(concept) && !heldContents.has(contentHash(path)));
  return { held, free };
}

function toDataset(
  pictures: readonly Picture[],
  classes: string[],
  by: 'category' | 'subcategory',
): Dataset<EmojiSample> {
  const labels = new Map(classes.map((name, label) => [name, label]));
  const samples = pictures.map(({ plain: _plain, ...rest }) => ({ ...rest, label: labels.get(rest[by])! }));
  return makeDataset({ classes: [...classes], samples, defaults: { size: IMAGE_SIZE } });
}

function classNames(pictures: readonly Picture[], by: 'category' | 'subcategory'): string[] {
  return [...new Set(pictures.map((picture) => picture[by]))].sort();
}

/**
 * Google's pictures, 98 subcategories as classes.
 * @returns `train`: concepts that are not held out, with all their skin tones; `test`: held-out concepts, without skin tones
 */
export function pretraining(): Split {
  const all = readPictures('google');
  const { held, free } = splitPictures(all);
  const classes = classNames(all, 'subcategory');
  return { train: toDataset(free, classes, 'subcategory'), test: toDataset(held, classes, 'subcategory') };
}

/**
 * Twitter's pictures without skin tones, nine categories as classes.
 * @returns `train`: {@link ADAPTATION_IMAGES} concepts that are not held out; `test`: all held-out concepts
 */
export function adaptation(): Split {
  const all = readPictures('twitter');
  const { held, free } = splitPictures(all);
  const chosen = new Set(
    free
      .filter(({ plain }) => plain)
      .sort((a, b) => trainingRank(a.concept) - trainingRank(b.concept))
      .slice(0, ADAPTATION_IMAGES)
      .map(({ path }) => path),
  );
  const classes = classNames(all, 'category');
  const train = free.filter(({ path }) => chosen.has(path));
  return { train: toDataset(train, classes, 'category'), test: toDataset(held, classes, 'category') };
}
