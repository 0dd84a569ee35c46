/** The addon in processes that end, in workers, and under the garbage collector. Each program must end with the status it was meant to have. */

import { describe, expect, it } from 'vitest';
import { runChild } from './child';

describe('exit with work queued', () => {
  it.each([
    ['return', 0],
    ['exit', 3],
    ['exit-waiting', 4],
    ['throw', 1],
  ])('%s', (way, status) => {
    const start = performance.now();
    runChild('exit', { args: [way], status });
    expect(performance.now() - start, 'what is queued is dropped').toBeLessThan(20_000);
  });

  it('a promise that is open keeps the process', () => {
    expect(runChild('exit', { args: ['await'] })).toEqual({ first: 1 });
  });

  it('close() waits for what is queued', () => {
    expect(runChild('exit', { args: ['close'] })).toEqual({ state: true });
  });
});

describe('garbage collector', () => {
  const collect = (program: string) => runChild('garbage', { args: [program], flags: ['--expose-gc'] });

  it('frees dropped handles, and counts them', () => {
    expect(collect('dropped')).toEqual({ finalized: 200, memory: 0 });
  });

  it('has nothing to do after a normal run', () => {
    expect(collect('disposed')).toEqual({ finalized: 0, memory: 0 });
  });

  it('leaves a device alone while a tensor of it lives', () => {
    expect(collect('device')).toEqual({ numbers: [1, 2, 3] });
  });

  it('leaves alone what a promise waits for', () => {
    expect(collect('promise')).toEqual({ first: 1 });
  });

  it('ends the threads of devices that nobody closed', () => {
    expect((collect('threads') as { left: number }).left).toBeLessThanOrEqual(0);
  });

  it('V8 knows the bytes of large buffers', () => {
    expect(runChild('external_memory')).toEqual({
      one: 16,
      aliased: 16,
      oneLeft: 16,
      none: 0,
      planned: 0,
      three: 48,
      end: 0,
      dropped: 'collected',
    });
  });

  it('a thousand rounds leave nothing behind', () => {
    const result = runChild('rounds', { flags: ['--expose-gc'] }) as Record<string, unknown>;
    expect(result.after).toEqual(result.before);
    expect(result.before).toMatchObject({ currentBytes: 0, blocks: 0 });
    expect(result.heapGrowth, 'one object kept in each round would be more').toBeLessThan(500_000);
    expect(result.finalized).toBe(0);
  });
});

describe('worker threads', () => {
  it('two with a device each, at once', () => {
    expect(runChild('workers', { args: ['together'] })).toEqual({ same: true, differ: true });
  });

  it('load the addon alone and end', () => {
    expect(runChild('workers', { args: ['only'] })).toEqual({ codes: [0, 0, 0, 0] });
  });

  it('beside a device of the main thread', () => {
    expect(runChild('workers', { args: ['main'] })).toEqual({ numbers: [1, 2, 3] });
  });

  it('are terminated while kernels run', () => {
    expect(runChild('workers', { args: ['terminate'] })).toEqual({ terminated: 6, finite: true });
  });

  it('are terminated while the main thread computes, to the bits that it gives alone', () => {
    expect(runChild('workers', { args: ['beside'] })).toEqual({ runs: [true, true, true] });
  });

  it('run when the process exits', () => {
    runChild('workers', { args: ['exit'], status: 5 });
  });
});

it('the addon can be loaded twice', () => {
  expect(runChild('twice')).toEqual({ another: true, bytes: [128, 128], mixed: 'SIDETUNE_DEVICE' });
});
