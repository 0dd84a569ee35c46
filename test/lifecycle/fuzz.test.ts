import { expect, it } from 'vitest';
import { runChild } from './child';

it.each([1, 2, 3])('wrong arguments never crash (seed %s)', { timeout: 240_000 }, (seed) => {
  const { failures, worked, threw } = runChild('fuzz', { args: [String(seed)] }) as Record<string, unknown>;
  expect(failures).toEqual([]);
  expect(worked, 'some calls work: the others fail for a reason').toBeGreaterThan(500);
  expect(threw).toBeGreaterThan(5000);
});
