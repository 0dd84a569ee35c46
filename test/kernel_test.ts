/**
 * The harness of every kernel family (one call of `kernelTest` per op): forward and backward against the goldens, forward against a float64 reference in
 * JavaScript, backward against numeric derivatives of that reference, in f32 and bf16, on every SIMD target of the machine; with poisoned outputs, guard
 * bytes, unwanted gradients, several thread counts, memory equalities, bad calls, and sabotage: a corrupted result must be noticed, else the test is wrong.
 */

import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Tape } from '../lib/autograd/tape';
import type { Device, DeviceOptions } from '../lib/device';
import { SidetuneError } from '../lib/errors';
import { bf16ToFloat32, float32ToBf16 } from '../lib/io/half';
import { openSafetensors } from '../lib/io/safetensors';
import { setTestFlags } from '../lib/kernels';
import { type DType, Tensor } from '../lib/tensor';
import { missedBarriers } from './barriers';
import { type Bound, difference, epsilon, relativeToMaximum } from './compare';
import { isShort, isWatched, openOn, openVariant, targets, variants } from './each_target';
import { Random } from './random';
import type { Reference } from './reference/array';

export type Compute = 'f32' | 'bf16';
// biome-ignore lint/suspicious/noExplicitAny: options differ from op to op
export type Options = Record<string, any>;

/** An input of a case: a shape filled with normal numbers, or its own numbers. */
export type InputSpec =
  | readonly number[]
  | { shape: readonly number[]; scale?: number; mean?: number; values?: (index: number) => number; dtype?: DType };

export interface Case {
  name: string;
  inputs: Record<string, InputSpec>;
  options?: Options;
  /** Bytes that the tape keeps for backward beside the inputs (a saved result counts), from the docstring's formula. */
  keeps?: (bytesOfCompute: number) => number;
  /** No sabotage: the case is of zeros or equal rows and cannot see some corruptions. */
  degenerate?: boolean;
  /** Element-by-element bound |got − want| ≤ roundings · ε · |want| + floor, for inputs over many magnitudes. */
  floor?: { f32: number; bf16: number };
  only?: Compute;
  /** Left out where tests are to be short (vitest.config.mts). */
  long?: boolean;
}

export interface Golden {
  file: string;
  /** Golden tensor name for each input, e.g. { x: 'x', weight: 'gamma' }. */
  inputs: Record<string, string>;
  output: string;
  options?: Options;
  /** Golden shape to the op's shape, where they differ. */
  reshape?: Record<string, readonly number[]>;
  floor?: boolean;
  only?: Compute;
  tolerance?: { bf16: { out: number; grad: number } };
}

export interface BadCall {
  name: string;
  /** Makes the call; tensors from `tensor(shape, dtype)` are cleaned up. */
  call(tensor: (shape: readonly number[], dtype?: DType) => Tensor, device: Device): unknown;
  code: string;
  argument?: string;
  message?: RegExp;
}

export interface KernelTest {
  cases: Case[];
  goldens?: Golden[];
  run(inputs: Record<string, Tensor>, options: Options): Tensor;
  reference(inputs: Record<string, Reference>, options: Options): Reference;
  /** Frees what `run` made for itself and backward needed. */
  cleanUp?(): void;
  /** Inputs that have the compute dtype; the others are f32 (or their own dtype). */
  computeInputs: string[];
  /** Inputs that gradients are asked for. */
  differentiable: string[];
  /** Inputs that the op changes. */
  inPlace?: string[];
  /** dtype of the result where it is not the compute dtype. */
  outputDtype?: DType;
  /** Roundings of each output, see compare.ts, with what they count. */
  tolerance: Record<Compute, { out: number; grad: number }>;
  bad: BadCall[];
}

const goldens = path.join(__dirname, 'fixtures', 'goldens');

function specOf(input: InputSpec): Exclude<InputSpec, readonly number[]> {
  return 'shape' in input ? input : { shape: input };
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

function draw(spec: InputSpec, random: Random): Float64Array {
  const { shape, scale = 1, mean = 0, values } = specOf(spec);
  return Float64Array.from({ length: sizeOf(shape) }, (_, index) =>
    values ? values(index) : mean + scale * random.normal(),
  );
}

/** The numbers as the tensor will hold them. */
function rounded(data: Float64Array, dtype: DType): Float64Array {
  const f32 = Float32Array.from(data);
  return Float64Array.from(dtype === 'bf16' ? bf16ToFloat32(float32ToBf16(f32)) : f32);
}

function seedOf(text: string): number {
  let hash = 2166136261;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 16777619);
  return hash >>> 0;
}

interface Prepared {
  dtypes: Record<string, DType>;
  references: Record<string, Reference>;
  cotangent: Float64Array;
}

interface Result {
  out: Float32Array;
  grads: Record<string, Float32Array>;
  keptBytes: number;
  inputsUnchanged: boolean;
}

async function withDevice<T>(
  { target = targets[0]!, variant, ...options }: DeviceOptions & { target?: string; variant?: string },
  body: (device: Device) => Promise<T>,
): Promise<T> {
  const device = await (variant === undefined ? openOn(target, options) : openVariant(variant, options));
  try {
    return await body(device);
  } finally {
    await device.close();
  }
}

class Harness {
  constructor(
    readonly family: string,
    readonly test: KernelTest,
  ) {}

  dtypeOf(name: string, spec: InputSpec, compute: Compute): DType {
    return specOf(spec).dtype ?? (this.test.computeInputs.includes(name) ? compute : 'f32');
  }

  outputDtype(compute: Compute): DType {
    return this.test.outputDtype ?? compute;
  }

  prepare(testCase: Case, compute: Compute): Prepared {
    const random = new Random(seedOf(`${this.family} ${testCase.name}`));
    const references: Record<string, Reference> = {};
    const dtypes: Record<string, DType> = {};
    for (const [name, spec] of Object.entries(testCase.inputs)) {
      dtypes[name] = this.dtypeOf(name, spec, compute);
      references[name] = { shape: specOf(spec).shape, data: rounded(draw(spec, random), dtypes[name]) };
    }
    const out = this.test.reference(references, testCase.options ?? {});
    const cotangent = rounded(
      Float64Array.from({ length: out.data.length }, () => random.normal()),
      this.outputDtype(compute),
    );
    return { dtypes, references, cotangent };
  }

  /** Forward and backward on a device, with the gradients in `wanted`. */
  async execute(device: Device, prepared: Prepared, options: Options, wanted: string[]): Promise<Result> {
    const inputs: Record<string, Tensor> = {};
    for (const [name, { shape, data }] of Object.entries(prepared.references)) {
      const dtype = prepared.dtypes[name]!;
      const numbers =
        dtype === 'i32' ? Int32Array.from(data) : dtype === 'u8' ? Uint8Array.from(data) : Float32Array.from(data);
      inputs[name] = Tensor.from(device, numbers, shape, { dtype, kind: 'data' });
    }
    const before = await Promise.all(Object.values(inputs).map((tensor) => tensor.readBytes()));
    const tape = new Tape();
    for (const name of wanted) tape.watch(inputs[name]!);
    const out = tape.run(() => this.test.run(inputs, options));
    const keptBytes = tape
      .report()
      .filter(({ kind }) => kind === 'activations')
      .reduce((sum, { bytes }) => sum + bytes, 0);
    const numbers = (await out.read()) as Float32Array;
    const cotangent = Tensor.from(device, Float32Array.from(prepared.cotangent), out.shape, {
      dtype: out.dtype,
      kind: 'gradients',
    });
    tape.seed(out, cotangent);
    tape.backward();
    const grads: Record<string, Float32Array> = {};
    for (const name of wanted) {
      const grad = tape.takeGradient(inputs[name]!);
      expect(grad.shape, `shape of the gradient of ${name}`).toEqual(inputs[name]!.shape);
      grads[name] = (await grad.read()) as Float32Array;
      grad.dispose();
    }
    const after = await Promise.all(Object.values(inputs).map((tensor) => tensor.readBytes()));
    this.test.cleanUp?.();
    const inputsUnchanged = Object.keys(inputs).every(
      (name, index) => this.test.inPlace?.includes(name) || Buffer.compare(before[index]!, after[index]!) === 0,
    );
    for (const tensor of [...Object.values(inputs), out, cotangent]) tensor.dispose();
    return { out: numbers, grads, keptBytes, inputsUnchanged };
  }

  bound(testCase: Case, compute: Compute, what: 'out' | 'grad', dtype: DType): Bound {
    const roundings = this.test.tolerance[compute][what];
    const unit = dtype === 'bf16' ? epsilon.bf16 : compute === 'bf16' ? epsilon.bf16 : epsilon.f32;
    const floor = testCase.floor?.[compute];
    return floor === undefined ? { roundings, epsilon: unit } : { roundings, epsilon: unit, floor };
  }

  loss(references: Record<string, Reference>, options: Options, cotangent: Float64Array): number {
    const { data } = this.test.reference(references, options);
    let sum = 0;
    for (let i = 0; i < data.length; i++) sum += data[i]! * cotangent[i]!;
    return sum;
  }

  /** d loss / d input along `direction`, by central differences of the float64 reference. */
  slope(prepared: Prepared, options: Options, name: string, direction: (index: number) => number): number {
    const base = prepared.references[name]!;
    // As long as the numbers that it moves: one number's own size, the typical size along a direction of many.
    let energy = 0;
    let moved = 0;
    for (let index = 0; index < base.data.length; index++) {
      if (direction(index) === 0) continue;
      energy += base.data[index]! ** 2;
      moved++;
    }
    const step = 1e-6 * Math.max(1, Math.sqrt(energy / Math.max(1, moved)));
    const at = (sign: number): number => {
      const data = base.data.map((value, index) => value + sign * step * direction(index));
      return this.loss({ ...prepared.references, [name]: { shape: base.shape, data } }, options, prepared.cotangent);
    };
    return (at(1) - at(-1)) / (2 * step);
  }

  checkGradient(testCase: Case, prepared: Prepared, compute: Compute, name: string, grad: Float32Array): string | null {
    const options = testCase.options ?? {};
    const dtype = prepared.dtypes[name]!;
    const bound = this.bound(testCase, compute, 'grad', dtype);
    const size = prepared.references[name]!.data.length;
    const cost = size * this.test.reference(prepared.references, options).data.length;
    if (cost <= 150_000) {
      const expected = Float64Array.from({ length: size }, (_, index) =>
        this.slope(prepared, options, name, (other) => (other === index ? 1 : 0)),
      );
      return difference(grad, expected, bound);
    }
    // Large cases: three random directions. The error of a sum of `size` rounded numbers grows like its square root.
    const random = new Random(seedOf(`directions ${testCase.name} ${name}`));
    for (let trial = 0; trial < 3; trial++) {
      const direction = Float64Array.from({ length: size }, () => random.normal());
      const expected = this.slope(prepared, options, name, (index) => direction[index]!);
      let actual = 0;
      let energy = 0;
      for (let i = 0; i < size; i++) {
        actual += grad[i]! * direction[i]!;
        energy += (grad[i]! * direction[i]!) ** 2;
      }
      const allowed =
        bound.roundings * bound.epsilon * (Math.sqrt(energy) + Math.abs(expected)) * 4 +
        1e-6 * Math.abs(expected) +
        (bound.floor ?? 0);
      if (!(Math.abs(actual - expected) <= allowed)) {
        return `along direction ${trial}: ${actual}, expected ${expected} ± ${allowed}`;
      }
    }
    return null;
  }

  /** Whether a case is refused, or computes wrong numbers, on a variant of the device. */
  async fails(testCase: Case, compute: Compute, variant: string): Promise<boolean> {
    const prepared = this.prepare(testCase, compute);
    try {
      const result = await withDevice({ variant }, (device) =>
        this.execute(device, prepared, testCase.options ?? {}, this.test.differentiable),
      );
      return this.checkOutput(testCase, prepared, compute, result.out) !== null;
    } catch {
      return true;
    }
  }

  checkOutput(testCase: Case, prepared: Prepared, compute: Compute, out: ArrayLike<number>): string | null {
    const expected = this.test.reference(prepared.references, testCase.options ?? {}).data;
    return difference(out, expected, this.bound(testCase, compute, 'out', this.outputDtype(compute)));
  }
}

/** What sabotage does to a result; each must be noticed. */
function corruptions(values: Float32Array, compute: Compute): [string, Float32Array][] {
  const scaled = values.map((value) => value * (compute === 'bf16' ? 1.25 : 1.05));
  const largest = values.reduce((best, value, index) => (Math.abs(value) > Math.abs(values[best]!) ? index : best), 0);
  const zeroed = values.slice();
  zeroed[largest] = 0;
  const flipped = values.map((value) => -value);
  const poisoned = values.slice();
  poisoned[values.length - 1] = Number.NaN;
  const list: [string, Float32Array][] = [
    ['scaled', scaled],
    ['with its largest element zeroed', zeroed],
    ['with all signs flipped', flipped],
    ['with its last element NaN', poisoned],
  ];
  if (values.length >= 4) {
    const half = values.length >> 1;
    const swapped = values.slice();
    swapped.set(values.subarray(half, 2 * half), 0);
    swapped.set(values.subarray(0, half), half);
    list.push(['with its halves swapped', swapped]);
  }
  return list;
}

function subsets(names: string[]): string[][] {
  return Array.from({ length: 2 ** names.length }, (_, bits) => names.filter((_name, index) => (bits >> index) & 1));
}

export function kernelTest(family: string, wanted: KernelTest): void {
  const test = { ...wanted, cases: wanted.cases.filter(({ long }) => !long || !isShort) };
  const harness = new Harness(family, test);
  const missed = isWatched ? missedBarriers(family.split(':')[0]!) : undefined;
  describe(family, () => {
    beforeAll(() => setTestFlags({ poison: true }));
    afterAll(() => setTestFlags({}));

    for (const golden of test.goldens ?? []) {
      for (const compute of ['f32', 'bf16'] as const) {
        if (golden.only && golden.only !== compute) continue;
        it(`golden ${golden.file}, ${compute}`, async () => {
          const file = await openSafetensors(path.join(goldens, `${golden.file}.safetensors`));
          const read = async (name: string): Promise<Float64Array> => Float64Array.from(await file.readFloat32(name));
          const dtypes: Record<string, DType> = {};
          const references: Record<string, Reference> = {};
          for (const [name, stored] of Object.entries(golden.inputs)) {
            const entry = file.tensors.get(`in.${stored}`)!;
            const integer = entry.dtype === 'I64';
            dtypes[name] = integer ? 'i32' : harness.dtypeOf(name, entry.shape, compute);
            const data = integer ? Float64Array.from(await file.readInt32(`in.${stored}`)) : await read(`in.${stored}`);
            references[name] = { shape: golden.reshape?.[name] ?? entry.shape, data };
          }
          const prepared = { dtypes, references, cotangent: await read(`cot.${golden.output}`) };
          const tolerance =
            compute === 'f32' ? { out: 2e-5, grad: 2e-5 } : (golden.tolerance?.bf16 ?? { out: 1e-2, grad: 2e-2 });
          const check = (what: string, actual: Float32Array, expected: Float64Array, allowed: number): void => {
            if (golden.floor && compute === 'f32') {
              expect(difference(actual, expected, { roundings: 1, epsilon: 1e-5, floor: 1e-6 }), what).toBeNull();
            } else {
              expect(relativeToMaximum(actual, expected), what).toBeLessThanOrEqual(allowed);
            }
          };
          for (const target of targets) {
            const result = await withDevice({ guards: true, target }, (device) =>
              harness.execute(device, prepared, golden.options ?? {}, test.differentiable),
            );
            const where = target || 'best target';
            check(`out (${where})`, result.out, await read(`out.${golden.output}`), tolerance.out);
            for (const name of test.differentiable) {
              const expected = await read(`grad.${golden.inputs[name]}`);
              check(`gradient of ${name} (${where})`, result.grads[name]!, expected, tolerance.grad);
            }
          }
          await file.close();
        });
      }
    }

    for (const testCase of test.cases) {
      for (const compute of ['f32', 'bf16'] as const) {
        if (testCase.only && testCase.only !== compute) continue;
        const options = testCase.options ?? {};
        it(`${testCase.name}, ${compute}: forward, gradients, guards, memory`, async () => {
          const prepared = harness.prepare(testCase, compute);
          for (const target of targets) {
            await withDevice({ guards: true, target }, async (device) => {
              const result = await harness.execute(device, prepared, options, test.differentiable);
              expect(
                harness.checkOutput(testCase, prepared, compute, result.out),
                `out (${target || 'best target'})`,
              ).toBeNull();
              for (const name of test.differentiable) {
                const problem = harness.checkGradient(testCase, prepared, compute, name, result.grads[name]!);
                expect(problem, `gradient of ${name} (${target || 'best target'})`).toBeNull();
              }
              expect(result.inputsUnchanged, 'inputs are unchanged').toBe(true);
              expect(await device.checkGuards()).toBeNull();
              expect(device.memory().currentBytes).toBe(0);
              if (testCase.keeps) {
                expect(result.keptBytes, 'bytes kept for backward').toBe(testCase.keeps(compute === 'bf16' ? 2 : 4));
              }
            });
          }
        });
      }
    }

    const nontrivial = test.cases.filter(({ degenerate }) => !degenerate);
    const smallest = nontrivial.reduce((best, other) => (cost(other) < cost(best) ? other : best));
    const largest = nontrivial.reduce((best, other) => (cost(other) > cost(best) ? other : best));

    it('any subset of gradients gives the same numbers', async () => {
      for (const compute of ['f32', 'bf16'] as const) {
        const prepared = harness.prepare(smallest, compute);
        await withDevice({ guards: true }, async (device) => {
          const all = await harness.execute(device, prepared, smallest.options ?? {}, test.differentiable);
          for (const wanted of subsets(test.differentiable)) {
            const some = await harness.execute(device, prepared, smallest.options ?? {}, wanted);
            expect(some.out).toEqual(all.out);
            for (const name of wanted)
              expect(some.grads[name], `gradient of ${name} when asked for ${wanted.join(', ')}`).toEqual(
                all.grads[name],
              );
          }
          expect(await device.checkGuards()).toBeNull();
        });
      }
    });

    it('neither the number of threads nor their order changes a bit', async () => {
      for (const testCase of [smallest, largest]) {
        for (const compute of ['f32', 'bf16'] as const) {
          if (testCase.only && testCase.only !== compute) continue;
          const prepared = harness.prepare(testCase, compute);
          const results = [];
          for (const variant of variants) {
            results.push(
              await withDevice({ variant }, (device) =>
                harness.execute(device, prepared, testCase.options ?? {}, test.differentiable),
              ),
            );
          }
          for (const other of results.slice(1)) {
            expect(other.out).toEqual(results[0]!.out);
            expect(other.grads).toEqual(results[0]!.grads);
          }
        }
      }
    });

    it('sabotage: some case notices each corruption of each result', async () => {
      for (const compute of ['f32', 'bf16'] as const) {
        const unseen = new Set<string>();
        const seen = new Set<string>();
        for (const testCase of nontrivial.filter(({ only }) => !only || only === compute)) {
          const prepared = harness.prepare(testCase, compute);
          const result = await withDevice({}, (device) =>
            harness.execute(device, prepared, testCase.options ?? {}, test.differentiable),
          );
          const checks: [string, Float32Array, (values: Float32Array) => string | null][] = [
            ['out', result.out, (values) => harness.checkOutput(testCase, prepared, compute, values)],
          ];
          for (const name of test.differentiable) {
            checks.push([
              `gradient of ${name}`,
              result.grads[name]!,
              (values) => harness.checkGradient(testCase, prepared, compute, name, values),
            ]);
          }
          for (const [what, values, check] of checks) {
            for (const [how, corrupted] of corruptions(values, compute)) {
              const label = `${what} ${how}`;
              unseen.add(label);
              if (!seen.has(label) && check(corrupted) !== null) seen.add(label);
            }
          }
        }
        for (const label of seen) unseen.delete(label);
        expect([...unseen], `${compute}: no case can see`).toEqual([]);
      }
    });

    if (missed) {
      it('sabotage: some case notices that a barrier is missing', { timeout: 600_000 }, async () => {
        const runs = [...test.cases]
          .sort((one, other) => cost(one) - cost(other))
          .flatMap((testCase) =>
            (['f32', 'bf16'] as const)
              .filter((compute) => !testCase.only || testCase.only === compute)
              .flatMap((compute) => ['sms=1', 'sms=1 shared=48'].map((device) => ({ testCase, compute, device }))),
          );
        for (const barrier of missed) {
          for (const [index, run] of runs.entries()) {
            if (!(await harness.fails(run.testCase, run.compute, `${run.device} without=${barrier}`))) continue;
            missed.delete(barrier);
            runs.unshift(...runs.splice(index, 1)); // it comes to the next barrier, too, as a rule
            break;
          }
        }
      });
    }

    for (const bad of test.bad) {
      it(`bad call: ${bad.name}`, async () => {
        await withDevice({}, async (device) => {
          const made: Tensor[] = [];
          const tensor = (shape: readonly number[], dtype: DType = 'f32'): Tensor => {
            const fresh = Tensor.zeros(device, shape, { dtype });
            made.push(fresh);
            return fresh;
          };
          let error: unknown;
          const before = () =>
            device.memory().currentBytes - made.reduce((sum, item) => sum + (item.disposed ? 0 : item.bytes), 0);
          try {
            bad.call(tensor, device);
          } catch (caught) {
            error = caught;
          }
          expect(error).toBeInstanceOf(SidetuneError);
          const { code, argument, message } = error as SidetuneError;
          expect({ code, argument: bad.argument === undefined ? undefined : argument, message }).toEqual({
            code: bad.code,
            argument: bad.argument,
            message: bad.message ? expect.stringMatching(bad.message) : message,
          });
          expect(before(), 'nothing is left behind').toBe(0);
          for (const item of made) item.dispose();
          expect(device.memory().currentBytes).toBe(0);
        });
      });
    }
  });
}

function cost({ inputs }: Case): number {
  return Object.values(inputs).reduce((sum, spec) => sum + sizeOf(specOf(spec).shape), 0);
}
