/** Doing a few things at a time. */
import { availableParallelism } from 'node:os';

/** Images decoded at the same time unless a call says otherwise: one per processor, at most the four threads of Node's pool. */
export function defaultConcurrency(): number {
  return Math.min(4, availableParallelism());
}

/**
 * Calls `work(0 … count − 1)`, at most `limit` at a time. After a failure nothing new is started; of several failures the one with the smallest
 * index is thrown, once everything that was under way has ended.
 */
export async function forEachLimited(
  count: number,
  limit: number,
  work: (index: number) => Promise<void>,
): Promise<void> {
  const failures: { index: number; error: unknown }[] = [];
  let next = 0;
  const worker = async () => {
    while (next < count && failures.length === 0) {
      const index = next++;
      try {
        await work(index);
      } catch (error) {
        failures.push({ index, error });
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, count) }, worker));
  const [first] = failures.sort((a, b) => a.index - b.index);
  if (first !== undefined) throw first.error;
}
