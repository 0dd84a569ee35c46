/** Checks of options that the functions of lib/data share; each refuses with an {@link ArgumentError} that names function and option. */
import { ArgumentError } from '../errors';

/** What came, short enough for a sentence. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return `'${value}'`;
  if (Array.isArray(value)) return `[${value.slice(0, 8).map(describe).join(', ')}${value.length > 8 ? ', …' : ''}]`;
  if (typeof value === 'object' && value !== null) return 'an object';
  return String(value);
}

/** An {@link ArgumentError} in the one form of this library: function, argument, what came, what was expected. */
export function refuse(kernel: string, argument: string, got: unknown, expected: string): ArgumentError {
  const came = describe(got);
  return new ArgumentError(`${kernel}: '${argument}' is ${came}, expected ${expected}`, {
    kernel,
    argument,
    got: came,
    expected,
  });
}

/** Refuses what is not an object and every option that is not in `known`. */
export function checkOptions(kernel: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw refuse(kernel, 'options', options, `an object with ${known.join(', ')}`);
  }
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue;
    throw new ArgumentError(`${kernel}: unknown option '${name}', known: ${known.join(', ')}`, {
      kernel,
      argument: name,
      expected: known.join(', '),
    });
  }
}

/** Returns `value` if it is an integer in `[low, high]`. */
export function checkInteger(
  kernel: string,
  argument: string,
  value: unknown,
  { low = 0, high = Number.MAX_SAFE_INTEGER } = {},
): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high) return value;
  const range =
    high === Number.MAX_SAFE_INTEGER ? `an integer of at least ${low}` : `an integer from ${low} to ${high}`;
  throw refuse(kernel, argument, value, range);
}

/** Returns `value` if it is one of `choices`. */
export function checkChoice<T extends string>(
  kernel: string,
  argument: string,
  value: unknown,
  choices: readonly T[],
): T {
  if (typeof value === 'string' && (choices as readonly string[]).includes(value)) return value as T;
  throw refuse(kernel, argument, value, choices.map((choice) => `'${choice}'`).join(' or '));
}
