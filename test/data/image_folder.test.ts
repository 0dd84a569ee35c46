import { mkdirSync, symlinkSync } from 'node:fs';
import { join, relative } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { batches, describeSkipped, imageFolder, imageList, loadDataset, makeDataset } from '../../lib/data';
import { forEachLimited } from '../../lib/data/concurrency';
import { ArgumentError, FileError, FormatError } from '../../lib/errors';
import { plain, put, type Rgb, tempFolder } from './temp_images';

const folder = tempFolder();
const pets = join(folder, 'pets');
const COLOURS: Record<string, Rgb> = { cat: [250, 10, 10], dog: [10, 250, 10], eel: [10, 10, 250] };

beforeAll(async () => {
  for (const [name, colour] of Object.entries(COLOURS)) {
    for (const file of ['b.png', 'a.PNG', 'C d.png']) put(pets, `${name}/${file}`, await plain(colour));
  }
  put(pets, 'readme.txt', 'not a class');
  put(pets, '.cache/x.png', await plain([0, 0, 0]));
  put(pets, 'cat/notes.txt', 'not an image');
  put(pets, 'cat/.hidden.png', 'not an image');
  mkdirSync(join(pets, 'cat/deeper.png'), { recursive: true });
});

describe('imageFolder', () => {
  it('lists classes and files in the order of their names', () => {
    const { classes, samples, length, skipped } = imageFolder(pets);
    expect(classes).toEqual(['cat', 'dog', 'eel']);
    expect(length).toBe(9);
    expect(skipped).toEqual([]);
    const listed = samples.map(({ path, label }) => `${label} ${relative(pets, path)}`);
    expect(listed.slice(0, 4)).toEqual(['0 cat/C d.png', '0 cat/a.PNG', '0 cat/b.png', '1 dog/C d.png']);
  });

  it('takes classes in the order given, and only those', async () => {
    const { classes, samples } = imageFolder(pets, { classes: ['eel', 'cat'] });
    expect(classes).toEqual(['eel', 'cat']);
    expect(samples.map(({ label }) => label)).toEqual([0, 0, 0, 1, 1, 1]);
    expect(samples[0]!.path).toContain('eel');
  });

  it('follows links to class folders', () => {
    const linked = join(folder, 'linked');
    mkdirSync(linked);
    symlinkSync(join(pets, 'dog'), join(linked, 'hound'));
    symlinkSync(join(pets, 'gone'), join(linked, 'dangling'));
    expect(imageFolder(linked).classes).toEqual(['hound']);
  });

  it('can be iterated over with the options it was made with', async () => {
    const sizes: number[] = [];
    for await (const batch of imageFolder(pets, { batchSize: 4, size: 2 })) {
      sizes.push(batch.size);
      expect(batch.images.length).toBe(batch.size * 3 * 2 * 2);
    }
    expect(sizes).toEqual([4, 4, 1]);
  });

  it('names what is wrong with the folders', async () => {
    expect(() => imageFolder(join(folder, 'none'))).toThrow(FileError);
    expect(() => imageFolder(join(folder, 'none'))).toThrow(join(folder, 'none'));
    mkdirSync(join(folder, 'bare'));
    expect(() => imageFolder(join(folder, 'bare'))).toThrow('holds no folders');
    put(folder, 'holes/full/x.png', await plain([1, 2, 3]));
    mkdirSync(join(folder, 'holes/void'));
    expect(() => imageFolder(join(folder, 'holes'))).toThrow(ArgumentError);
    expect(() => imageFolder(join(folder, 'holes'))).toThrow("class 'void'");
    put(folder, 'wordy/texts/x.txt', 'x');
    expect(() => imageFolder(join(folder, 'wordy'))).toThrow('holds no image (1 other entry)');
    expect(() => imageFolder(pets, { classes: ['cat', 'cow'] })).toThrow("class 'cow' of 'classes' has no folder");
    expect(() => imageFolder(pets, { classes: ['cat', 'cat'] })).toThrow("'cat' comes twice");
    expect(() => imageFolder(pets, { classes: [] })).toThrow(ArgumentError);
    expect(() => imageFolder(pets, { onBadImage: 'ignore' } as never)).toThrow("'onBadImage' is 'ignore'");
    expect(() => imageFolder(pets, { batchsize: 3 } as never)).toThrow("unknown option 'batchsize'");
  });
});

describe('imageList', () => {
  const list = (text: string) => put(folder, 'list.txt', text);

  it('splits at the last space, takes any line ending, and keeps lines that come twice', () => {
    const file = list('\uFEFFcat/C d.png 0\r\n\r\ndog/b.png 4\r\ndog/b.png 4');
    const { classes, samples, length } = imageList(pets, file);
    expect(samples).toEqual([
      { path: join(pets, 'cat/C d.png'), label: 0 },
      { path: join(pets, 'dog/b.png'), label: 4 },
      { path: join(pets, 'dog/b.png'), label: 4 },
    ]);
    expect(length).toBe(3);
    expect(classes).toEqual(['0', '1', '2', '3', '4']);
  });

  it('takes names or a number of classes', () => {
    const file = list('cat/b.png 1');
    expect(imageList(pets, file, { classes: 4 }).classes).toEqual(['0', '1', '2', '3']);
    expect(imageList(pets, file, { classes: ['no', 'yes'] }).classes).toEqual(['no', 'yes']);
  });

  it.each([
    ['a.png 0\nb.png', "list.txt:2: 'b.png' has no space"],
    ['a.png zero', "list.txt:1: the label is 'zero'"],
    ['a.png -1', "the label is '-1'"],
    ['a.png 1.5', "the label is '1.5'"],
    ['a.png 99999999', 'the label is 99999999'],
    ['../a.png 0', "the path is '../a.png'"],
    ['x/../../a.png 0', 'expected a path inside the root folder'],
    ['/etc/a.png 0', "the path is '/etc/a.png'"],
    [' \n\n', 'holds no images'],
  ])('refuses %j', (text, message) => {
    const file = list(text);
    expect(() => imageList(pets, file)).toThrow(FormatError);
    expect(() => imageList(pets, file)).toThrow(message);
  });

  it('refuses a label outside the classes, and a missing list', () => {
    const file = list('a.png 0\na.png 3');
    expect(() => imageList(pets, file, { classes: 3 })).toThrow(
      "list.txt:2: the label is 3, expected 0 to 2 (from 'classes')",
    );
    expect(() => imageList(pets, join(folder, 'none.txt'))).toThrow(FileError);
    expect(() => imageList(pets, file, { classes: 0 })).toThrow(ArgumentError);
  });
});

describe('makeDataset', () => {
  it('refuses a label that is no class', () => {
    expect(() => makeDataset({ classes: ['a'], samples: [{ path: 'p', label: 1 }] })).toThrow(ArgumentError);
    expect(() => makeDataset({ classes: ['a'], samples: [{ path: 'p', label: -1 }] })).toThrow("'label of p' is -1");
  });
});

describe('loadDataset', () => {
  const broken = join(folder, 'broken');
  beforeAll(async () => {
    for (const [name, colour] of Object.entries(COLOURS)) {
      for (const file of ['1.png', '2.png', '3.png']) put(broken, `${name}/${file}`, await plain(colour));
    }
    put(broken, 'cat/3.png', 'no image');
    put(broken, 'dog/1.png', '');
  });

  it('holds every image once, in order', async () => {
    const loaded = await loadDataset(imageFolder(pets), { size: 3, concurrency: 2 });
    expect(loaded.size).toBe(3);
    expect(loaded.pixels.length).toBe(9 * 27);
    loaded.samples.forEach(({ label }, index) => {
      expect([...loaded.pixels.subarray(index * 27, index * 27 + 3)]).toEqual(COLOURS[loaded.classes[label]!]);
    });
  });

  it('stops at the first bad image in the order of the samples', async () => {
    const attempt = loadDataset(imageFolder(broken), { size: 2, concurrency: 4 });
    await expect(attempt).rejects.toThrow(FormatError);
    await expect(attempt).rejects.toThrow(join(broken, 'cat/3.png'));
  });

  it('skips bad images, says how many and which, and closes the gaps', async () => {
    const dataset = imageFolder(broken, { onBadImage: 'skip', size: 2 });
    const loaded = await loadDataset(dataset);
    expect(loaded.length).toBe(7);
    expect(loaded.samples.length).toBe(7);
    expect(loaded.pixels.length).toBe(7 * 12);
    loaded.samples.forEach(({ label }, index) => {
      expect([...loaded.pixels.subarray(index * 12, index * 12 + 3)]).toEqual(COLOURS[loaded.classes[label]!]);
    });
    expect(loaded.skipped.map(({ path }) => relative(broken, path))).toEqual(['cat/3.png', 'dog/1.png']);
    const sentence = describeSkipped(loaded.skipped, 1);
    expect(sentence).toContain('2 images skipped');
    expect(sentence).toContain('cat/3.png');
    expect(sentence).toContain('and 1 more');
    expect(describeSkipped([])).toBe('');
  });

  it('skips a file that is gone, but never another kind of failure', async () => {
    const samples = [
      { path: join(pets, 'cat/b.png'), label: 0 },
      { path: join(pets, 'cat/gone.png'), label: 0 },
    ];
    const loaded = await loadDataset(makeDataset({ classes: ['cat'], samples, onBadImage: 'skip' }), { size: 2 });
    expect(loaded.skipped[0]!.path).toBe(samples[1]!.path);
    await expect(loadDataset(makeDataset({ classes: ['cat'], samples }), { size: 2 })).rejects.toThrow(FileError);
    const odd = makeDataset({
      classes: ['cat'],
      samples: [{ path: 7 as unknown as string, label: 0 }],
      onBadImage: 'skip',
    });
    await expect(loadDataset(odd, { size: 2 })).rejects.toThrow();
  });

  it('refuses a class of which nothing is readable', async () => {
    for (const name of ['1.png', '2.png']) put(folder, `lost/bad/${name}`, 'no image');
    put(folder, 'lost/good/1.png', await plain([1, 2, 3]));
    const attempt = loadDataset(imageFolder(join(folder, 'lost'), { onBadImage: 'skip' }), { size: 2 });
    await expect(attempt).rejects.toThrow(FormatError);
    await expect(attempt).rejects.toThrow("no readable image is left of class 'bad'");
  });

  it('only checks with cache: false', async () => {
    const progress: number[] = [];
    const checked = await loadDataset(imageFolder(broken, { onBadImage: 'skip' }), {
      size: 2,
      cache: false,
      onProgress: (done) => progress.push(done),
    });
    expect('pixels' in checked).toBe(false);
    expect(checked.length).toBe(7);
    expect(progress).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let images = 0;
    for await (const batch of batches(checked, { batchSize: 2 })) images += batch.size;
    expect(images).toBe(7);
  });

  it('needs a size', async () => {
    await expect(loadDataset(imageFolder(pets))).rejects.toThrow("'size' is undefined");
  });
});

describe('forEachLimited', () => {
  it('never runs more than the limit, and runs everything', async () => {
    let running = 0;
    let most = 0;
    const seen = new Set<number>();
    await forEachLimited(20, 3, async (index) => {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setTimeout(resolve, 1));
      running--;
      seen.add(index);
    });
    expect(most).toBe(3);
    expect(seen.size).toBe(20);
  });

  it('throws the failure with the smallest index and starts nothing after it', async () => {
    const started: number[] = [];
    const attempt = forEachLimited(50, 2, async (index) => {
      started.push(index);
      await new Promise((resolve) => setTimeout(resolve, index === 0 ? 8 : 1));
      if (index < 2) throw new Error(`failed ${index}`);
    });
    await expect(attempt).rejects.toThrow('failed 0');
    expect(started).toEqual([0, 1]);
  });
});
