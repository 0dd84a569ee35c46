import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  adaptation,
  type EmojiSample,
  isHeldOut,
  packageFolder,
  pretraining,
  type Split,
} from '../../examples/emoji/dataset';
import { loadDataset } from '../../lib/data';
import { FileError, FormatError } from '../../lib/errors';

const conceptsOf = (samples: readonly EmojiSample[]) => new Set(samples.map(({ concept }) => concept));
const contents = (samples: readonly EmojiSample[]) =>
  samples.map(({ path }) => createHash('sha256').update(readFileSync(path)).digest('hex'));
const common = <T>(a: Iterable<T>, b: Set<T>) => [...a].filter((item) => b.has(item));

describe('packageFolder', () => {
  it('says which command installs the images', () => {
    const nowhere = mkdtempSync(join(tmpdir(), 'sidetune-emoji-'));
    try {
      expect(() => packageFolder('twitter', nowhere)).toThrow(FileError);
      expect(() => packageFolder('twitter', nowhere)).toThrow(
        "package 'emoji-datasource-twitter', are not installed; run: npm ci --prefix examples/emoji",
      );
    } finally {
      rmSync(nowhere, { recursive: true });
    }
  });

  it('refuses another version', () => {
    const other = mkdtempSync(join(tmpdir(), 'sidetune-emoji-'));
    try {
      const folder = join(other, 'node_modules/emoji-datasource-google');
      mkdirSync(folder, { recursive: true });
      writeFileSync(
        join(folder, 'package.json'),
        JSON.stringify({ name: 'emoji-datasource-google', version: '15.1.2' }),
      );
      expect(() => packageFolder('google', other)).toThrow(FormatError);
      expect(() => packageFolder('google', other)).toThrow('version 15.1.2, expected 16.0.0');
    } finally {
      rmSync(other, { recursive: true });
    }
  });
});

describe('isHeldOut', () => {
  it('is a function of code and seed alone, frozen here', () => {
    const codes = ['1F600', '1F431', '1F355', '2764-FE0F', '1F1EB-1F1F7', '1F697', '1F385', '26BD', '1F402', '1F988'];
    expect(codes.filter((code) => isHeldOut(code))).toEqual(['1F697', '1F402', '1F988']);
    expect(codes.filter((code) => isHeldOut(code, 2))).not.toEqual(codes.filter((code) => isHeldOut(code)));
  });

  it('holds out about a quarter', () => {
    const held = Array.from({ length: 4000 }, (_, i) => isHeldOut(`code-${i}`)).filter(Boolean).length;
    // Four standard deviations of 4,000 draws of 1/4 are 110.
    expect(Math.abs(held - 1000)).toBeLessThan(110);
  });
});

describe('the emoji data sets', () => {
  let google: Split;
  let twitter: Split;
  // Without the packages this fails with the sentence that says how to install them.
  beforeAll(() => {
    google = pretraining();
    twitter = adaptation();
  });

  it('have their sizes and classes', () => {
    expect(google.train.classes.length).toBe(98);
    expect(twitter.train.classes).toEqual([
      'Activities',
      'Animals & Nature',
      'Flags',
      'Food & Drink',
      'Objects',
      'People & Body',
      'Smileys & Emotion',
      'Symbols',
      'Travel & Places',
    ]);
    expect(google.test.classes).toEqual(google.train.classes);
    expect(twitter.test.classes).toEqual(twitter.train.classes);
    expect(twitter.train.length).toBe(1000);
    expect({ train: google.train.length, test: google.test.length, twitterTest: twitter.test.length }).toEqual({
      train: 2912,
      test: 483,
      twitterTest: 483,
    });
  });

  it('share no concept between test and anything trained on', () => {
    const trained = new Set([...conceptsOf(google.train.samples), ...conceptsOf(twitter.train.samples)]);
    expect(trained.size).toBeGreaterThan(1400);
    expect(common(conceptsOf(twitter.test.samples), trained)).toEqual([]);
    expect(common(conceptsOf(google.test.samples), trained)).toEqual([]);
    expect(conceptsOf(google.test.samples)).toEqual(conceptsOf(twitter.test.samples));
    for (const concept of trained) expect(isHeldOut(concept)).toBe(false);
  });

  it('show no held-out picture under another name', () => {
    const trained = new Set([...contents(google.train.samples), ...contents(twitter.train.samples)]);
    expect(common(contents(twitter.test.samples), trained)).toEqual([]);
    expect(common(contents(google.test.samples), trained)).toEqual([]);
  });

  it('hold each concept once in adaptation, and in pre-training with its skin tones', () => {
    expect(conceptsOf(twitter.train.samples).size).toBe(1000);
    expect(conceptsOf(twitter.test.samples).size).toBe(twitter.test.length);
    expect(new Set(google.train.samples.map(({ path }) => path)).size).toBe(google.train.length);
    const toned = google.train.samples.filter(({ name }) => name.endsWith('skin tone)'));
    expect(toned.length).toBeGreaterThan(1200);
    expect(google.test.samples.filter(({ name }) => name.endsWith('skin tone)'))).toEqual([]);
    expect(twitter.train.samples.filter(({ name }) => name.endsWith('skin tone)'))).toEqual([]);
  });

  it('label each picture by its category, with every class on both sides', () => {
    for (const set of [twitter.train, twitter.test]) {
      for (const { label, category } of set.samples) expect(set.classes[label]).toBe(category);
      expect(new Set(set.samples.map(({ label }) => label)).size).toBe(9);
    }
    for (const { label, subcategory } of google.train.samples) expect(google.train.classes[label]).toBe(subcategory);
    expect(new Set(google.train.samples.map(({ label }) => label)).size).toBe(98);
    expect(
      [...google.train.samples, ...twitter.train.samples, ...twitter.test.samples].filter(
        (s) => s.category === 'Component',
      ),
    ).toEqual([]);
  });

  it('name pictures for people and point to files that are there', () => {
    const all = [...google.train.samples, ...google.test.samples, ...twitter.train.samples, ...twitter.test.samples];
    const named = (code: string) => all.find(({ concept }) => concept === code);
    expect(named('1F385')!.name).toBe('father christmas');
    expect(named('1F385')!.category).toBe('People & Body');
    expect(named('1F1EA-1F1EC')!.name).toBe('Egypt Flag');
    expect(all.map(({ name }) => name).filter((name) => name.trim() === '')).toEqual([]);
    expect(all.filter(({ path }) => !existsSync(path))).toEqual([]);
    expect(google.train.samples[0]!.path).toContain('google');
    expect(twitter.train.samples[0]!.path).toContain('twitter');
  });

  it('decode to 64 × 64 on white', async () => {
    const { test } = twitter;
    const loaded = await loadDataset(test);
    expect(loaded.pixels.length).toBe(test.length * 64 * 64 * 3);
    expect(loaded.skipped).toEqual([]);
    const imageBytes = 64 * 64 * 3;
    for (const index of [0, 200, test.length - 1]) {
      const image = sharp(loaded.samples[index]!.path).flatten({ background: 'white' }).toColourspace('srgb');
      const expected = await image.raw().toBuffer();
      expect(Buffer.from(loaded.pixels.subarray(index * imageBytes, (index + 1) * imageBytes)).equals(expected)).toBe(
        true,
      );
    }
    // Nearly every picture leaves its upper left corner to the background.
    const corners = test.samples.filter((_, index) => loaded.pixels[index * imageBytes] === 255);
    expect(corners.length).toBeGreaterThan(test.length * 0.8);
  });
});
