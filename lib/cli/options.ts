/** Values of options: each parser takes the text of the command line and throws what commander prints. */

import { InvalidArgumentError } from 'commander';

type Parse<T> = (text: string) => T;

function refuse(expected: string): never {
  throw new InvalidArgumentError(`Expected ${expected}.`);
}

export function wholeNumber(low: number, high = Number.MAX_SAFE_INTEGER): Parse<number> {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= low && value <= high) return value;
    return refuse(
      high === Number.MAX_SAFE_INTEGER ? `a whole number of at least ${low}` : `a whole number from ${low} to ${high}`,
    );
  };
}

export function number(low: number, high = Number.POSITIVE_INFINITY): Parse<number> {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isFinite(value) && value >= low && value <= high) return value;
    return refuse(
      high === Number.POSITIVE_INFINITY ? `a number of at least ${low}` : `a number from ${low} to ${high}`,
    );
  };
}

export function oneOf<T extends string>(known: readonly T[]): Parse<T> {
  return (text) => ((known as readonly string[]).includes(text) ? (text as T) : refuse(`one of ${known.join(', ')}`));
}

/** '1,4,16' or '1-12' or both, each once and in the order given. */
export function wholeNumbers(low: number): Parse<number[]> {
  const parse = wholeNumber(low);
  const items = listOf((item) => {
    const [, first, last] = /^(\d+)-(\d+)$/.exec(item) ?? [];
    return first && last ? range(parse(first), parse(last)) : [parse(item)];
  });
  return (text) => [...new Set(items(text).flat())];
}

function range(first: number, last: number): number[] {
  const length = last - first + 1;
  if (length < 1 || length > longestRange) refuse(`ranges like 1-12, of at most ${longestRange} numbers`);
  return Array.from({ length }, (_, i) => first + i);
}

const longestRange = 1000;

/** 'a,b,c', each once and in the order given. */
export function listOf<T>(parse: Parse<T>): Parse<T[]> {
  return (text) => [...new Set(text.split(',').map((item) => parse(item.trim())))];
}

export function regularExpression(text: string): RegExp {
  try {
    return new RegExp(text, 'i');
  } catch (error) {
    return refuse(`a regular expression; ${(error as Error).message}`);
  }
}

/** Arguments of `command.option`. */
export const deviceOption = ['--device <name>', "'cpu', 'cuda', 'cuda:1', …", 'cpu'] as const;

/** Collects 'name=value' of an option that may come several times; numbers, true, false, lists and objects in JSON become what they look like. */
export function setting(text: string, previous: Record<string, unknown> = {}): Record<string, unknown> {
  const [, name, value] = /^([A-Za-z]\w*)=(.+)$/.exec(text) ?? refuse("'name=value'");
  return { ...previous, [name!]: parseSetting(value!) };
}

function parseSetting(text: string): unknown {
  if (text === 'true' || text === 'false') return text === 'true';
  if (/^[[{]/.test(text)) {
    try {
      return JSON.parse(text);
    } catch {
      return refuse(`JSON behind '=', because it begins with ${text[0]}`);
    }
  }
  return Number.isNaN(Number(text)) ? text : Number(text);
}

/** Collects 'name=rate' of an option that may come several times. */
export function rateOf(text: string, previous: Record<string, number> = {}): Record<string, number> {
  const [, name, value] = /^([^=]+)=(.+)$/.exec(text) ?? refuse("'method=rate'");
  return { ...previous, [name!]: number(0)(value!) };
}

/** Collects 'owner.name=value' of an option that may come several times. */
export function settingOf(
  text: string,
  previous: Record<string, Record<string, unknown>> = {},
): Record<string, Record<string, unknown>> {
  const [, owner, rest] = /^([^.=]+)\.([A-Za-z]\w*=.+)$/.exec(text) ?? refuse("'method.name=value'");
  return { ...previous, [owner!]: setting(rest!, previous[owner!]) };
}
