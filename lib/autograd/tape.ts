/**
 * The tape: a list of the differentiable calls that were made, walked backwards for gradients. Native code knows nothing of it.
 *
 * A tensor is *tracked* when it depends on one that gradients were asked for. Calls with no tracked input are not recorded and save nothing: that single
 * rule makes a frozen prefix free.
 */

import { AsyncLocalStorage } from 'node:async_hooks';
import type { Device, Kind } from '../device';
import { DisposedError } from '../errors';
import { kernels } from '../kernels';
import { labelled } from '../label';
import { keep, outsideScopes, scope } from '../scope';
import { Tensor } from '../tensor';

export type Inputs = Record<string, Tensor | undefined>;
type Saved = Record<string, Tensor | undefined>;

/** What an op's backward gets. */
export interface BackwardContext {
  /** Gradient of the loss by the op's result. */
  gradOut: Tensor;
  /** What the op saved, by name. */
  saved: Record<string, Tensor>;
  /** Which inputs need a gradient. */
  wanted: Record<string, boolean>;
  /**
   * The gradient that an input has so far from other uses, handed over: a backward kernel that takes a `residual` adds its own to it in the same pass and
   * returns the sum. Undefined when there is none yet or the input needs no gradient.
   */
  pending(input: string): Tensor | undefined;
  /** An f32 tensor in the input's shape that the backward kernel adds to (+=); undefined when the input needs no gradient. */
  accumulator(input: string): Tensor | undefined;
}

export interface Recording {
  /** Inputs and results that backward will read; the tape keeps the bytes alive. */
  saved?: Saved;
  /** Tensors that exist only for backward; they become the tape's. */
  state?: Saved;
  /** Gradients by input name, new tensors or `gradOut` itself; inputs served by `accumulator` are left out. */
  backward(context: BackwardContext): Record<string, Tensor | undefined>;
  /** In-place ops: puts the buffer back to what it was before the call. */
  undo?: {
    buffer: Tensor;
    version: number;
    keep: Record<string, Tensor>;
    run(kept: Record<string, Tensor>, buffer: Tensor): void;
  };
}

/** A tracked tensor's place in the tape. */
class Value {
  grad: Tensor | undefined;
  /** `grad` is another's too: it must not change in place. */
  shared = false;
  constructor(
    readonly shape: readonly number[],
    readonly device: Device,
  ) {}

  /** The gradient so far, of its own bytes, to be added to. */
  accumulator(): Tensor {
    if (this.grad && !this.shared) return this.grad;
    const own = keep(Tensor.zeros(this.device, this.shape, { kind: 'gradients' }));
    if (this.grad) {
      own.copyFrom(this.grad);
      this.grad.dispose();
    }
    this.grad = own;
    this.shared = false;
    return own;
  }

  drop(): void {
    this.grad?.dispose();
    this.grad = undefined;
  }
}

interface SavedTensor {
  name: string;
  tensor: Tensor;
  version: number;
}

interface Node {
  op: string;
  block: string;
  inputs: Record<string, Value>;
  outputs: Value[];
  saved: SavedTensor[];
  backward: Recording['backward'];
  /** Replays of checkpoints differentiate themselves. */
  replay?: (grads: (Tensor | undefined)[], inputs: Tensor[]) => void;
}

interface Undo {
  buffer: Tensor;
  address: string;
  before: number;
  kept: Record<string, Tensor>;
  run(kept: Record<string, Tensor>, buffer: Tensor): void;
}

/** A retained tensor in a {@link Tape.report}. */
export interface Retained {
  op: string;
  block: string;
  name: string;
  kind: Kind;
  bytes: number;
  /** Of the buffer: equal for one buffer seen twice. */
  address: string;
}

const currentTape = new AsyncLocalStorage<Tape | null>();
const noInputs: Record<string, boolean> = {};

function alive(tensor: Tensor): Tensor {
  return keep(tensor.alias());
}

export class Tape {
  #values = new WeakMap<Tensor, Value>();
  #watched = new Map<Tensor, Value>();
  #nodes: Node[] = [];
  #undos: Undo[] = [];
  #block = '';
  /** Only finds out what depends on what: nothing is saved. */
  readonly dry: boolean;

  constructor(
    private readonly parent: Tape | null = null,
    options: { dry?: boolean } = {},
  ) {
    this.dry = options.dry ?? false;
  }

  static current(): Tape | null {
    return currentTape.getStore() ?? null;
  }

  run<T>(body: () => T): T {
    return currentTape.run(this, body);
  }

  /** Gradients by `tensor` will be wanted. */
  watch(tensor: Tensor): void {
    if (this.#values.has(tensor)) return;
    const value = new Value(tensor.shape, tensor.device);
    this.#values.set(tensor, value);
    this.#watched.set(tensor, value);
  }

  /** Another handle for something tracked. */
  identify(alias: Tensor, original: Tensor): void {
    const value = this.valueOf(original);
    if (value) this.#values.set(alias, value);
  }

  valueOf(tensor: Tensor): Value | undefined {
    return this.#values.get(tensor) ?? this.parent?.valueOf(tensor);
  }

  tracks(tensor: Tensor): boolean {
    return this.valueOf(tensor) !== undefined;
  }

  /** Names the part of the model whose ops are being recorded, for {@link report} and for traces of backward. */
  get block(): string {
    return this.#block;
  }
  set block(name: string) {
    this.#block = name;
  }

  record(op: string, inputs: Inputs, outputs: Tensor[], recording: Recording): void {
    const tracked: Record<string, Value> = {};
    for (const name in inputs) {
      const tensor = inputs[name];
      const value = tensor && this.valueOf(tensor);
      if (value) tracked[name] = value;
    }
    const values = outputs.map((output) => {
      const value = new Value(output.shape, output.device);
      this.#values.set(output, value);
      return value;
    });
    if (this.dry) return;
    this.#nodes.push({
      op,
      block: this.#block,
      inputs: tracked,
      outputs: values,
      saved: [...savedTensors(recording.saved, alive), ...savedTensors(recording.state, keep)],
      backward: recording.backward,
    });
    if (recording.undo) {
      const { buffer, version, keep: kept, run } = recording.undo;
      const aliases = Object.fromEntries(Object.entries(kept).map(([name, tensor]) => [name, alive(tensor)]));
      this.#undos.push({ buffer: alive(buffer), address: buffer.address, before: version, kept: aliases, run });
    }
  }

  recordReplay(inputs: Tensor[], outputs: Tensor[], replay: NonNullable<Node['replay']>): void {
    this.record('checkpoint', Object.fromEntries(inputs.map((tensor, index) => [`input${index}`, tensor])), outputs, {
      saved: Object.fromEntries(inputs.map((tensor, index) => [`input${index}`, tensor])),
      backward: () => ({}),
    });
    this.#nodes.at(-1)!.replay = replay;
  }

  /** Every tensor that the tape keeps for backward, each buffer once, in order of recording. */
  report(): Retained[] {
    const seen = new Set<string>();
    const rows: Retained[] = [];
    const add = (op: string, block: string, name: string, tensor: Tensor): void => {
      if (seen.has(tensor.address)) return;
      seen.add(tensor.address);
      rows.push({ op, block, name, kind: tensor.kind, bytes: tensor.bytes, address: tensor.address });
    };
    for (const { op, block, saved } of this.#nodes) for (const { name, tensor } of saved) add(op, block, name, tensor);
    return rows;
  }

  /** Whether {@link backward} brought a gradient to a watched tensor. */
  reached(tensor: Tensor): boolean {
    return this.#watched.get(tensor)!.grad !== undefined;
  }

  /** The gradient of a watched tensor after {@link backward}; the caller's from then on. Zeros where the loss does not depend on it. */
  takeGradient(tensor: Tensor): Tensor {
    const value = this.#watched.get(tensor)!;
    const grad = value.grad ?? keep(Tensor.zeros(tensor.device, tensor.shape, { kind: 'gradients' }));
    value.grad = undefined;
    return grad;
  }

  /** Puts a gradient where backward starts. */
  seed(tensor: Tensor, grad: Tensor): void {
    const value = this.valueOf(tensor);
    if (value) add(value, grad, grad);
  }

  /** Walks the tape back. Each node's saved tensors go as soon as it has run. When it throws, nothing is kept. */
  backward(): void {
    outsideScopes(() => {
      try {
        for (let node = this.#nodes.pop(); node; node = this.#nodes.pop()) {
          try {
            labelled(node.block, () => this.#differentiate(node));
          } finally {
            for (const { tensor } of node.saved) tensor.dispose();
          }
        }
        this.#forget();
      } catch (error) {
        this.dispose();
        throw error;
      }
    });
  }

  #differentiate(node: Node): void {
    const grads = node.outputs.map((output) => {
      const grad = output.grad;
      output.grad = undefined;
      return grad;
    });
    if (grads.every((grad) => grad === undefined)) return;
    const temporary: Tensor[] = [];
    try {
      if (node.replay) {
        node.replay(
          grads,
          node.saved.map(({ tensor }) => tensor),
        );
        return;
      }
      const gradOut = grads[0]!;
      // The scope takes what an op's backward makes in between and gradients that nobody wants, and everything when it throws.
      scope(() => {
        const saved: Record<string, Tensor> = {};
        const given = new Set<Value>();
        const again: [Value, Tensor][] = [];
        for (const { name, tensor, version } of node.saved) {
          this.#restore(node, name, tensor, version);
          saved[name] = tensor;
        }
        const results = node.backward({
          gradOut,
          saved,
          wanted: Object.fromEntries(Object.keys(node.inputs).map((name) => [name, true])),
          pending: (input) => {
            const value = node.inputs[input];
            const grad = value?.grad;
            if (value && grad) {
              value.grad = undefined;
              temporary.push(grad);
            }
            return grad;
          },
          accumulator: (input) => {
            const value = node.inputs[input];
            if (!value || !given.has(value)) {
              if (value) given.add(value);
              return value?.accumulator();
            }
            // The same tensor as another input: no kernel adds to one place twice.
            const apart = Tensor.zeros(value.device, value.shape, { kind: 'gradients' });
            again.push([value, apart]);
            return apart;
          },
        });
        for (const [value, apart] of again) kernels.addInto({ target: value.accumulator(), x: apart });
        for (const name in results) {
          const grad = results[name];
          const value = node.inputs[name];
          if (grad && value) add(value, grad, gradOut);
        }
      });
    } finally {
      for (const tensor of temporary) tensor.dispose();
      for (const grad of grads) grad?.dispose();
    }
  }

  // A saved tensor must hold what it held when it was saved: in-place ops after it are undone, in reverse order, as far as they say how.
  #restore(node: Node, name: string, tensor: Tensor, version: number): void {
    while (tensor.version !== version) {
      const address = tensor.address;
      let index = this.#undos.length - 1;
      while (index >= 0 && this.#undos[index]!.address !== address) index--;
      if (index < 0) {
        throw new DisposedError(`backward of '${node.op}': '${name}' was changed in place after it was saved`, {
          code: 'SIDETUNE_MODIFIED',
          kernel: node.op,
          argument: name,
        });
      }
      const [undo] = this.#undos.splice(index, 1);
      undo!.run(undo!.kept, undo!.buffer);
      undo!.buffer.version = undo!.before;
      discard(undo!);
    }
  }

  /** Lets go of everything that is kept for a backward that will not come, and of gradients that nobody took. */
  dispose(): void {
    this.#forget();
    for (const value of this.#watched.values()) value.drop();
    this.#watched.clear();
  }

  #forget(): void {
    for (const node of this.#nodes) {
      for (const { tensor } of node.saved) tensor.dispose();
      for (const output of node.outputs) output.drop();
    }
    for (const undo of this.#undos) discard(undo);
    this.#nodes = [];
    this.#undos = [];
  }
}

function savedTensors(tensors: Saved | undefined, take: (tensor: Tensor) => Tensor): SavedTensor[] {
  const list: SavedTensor[] = [];
  for (const name in tensors) {
    const tensor = tensors[name];
    if (tensor) list.push({ name, tensor: take(tensor), version: tensor.version });
  }
  return list;
}

function discard(undo: Undo): void {
  for (const tensor of Object.values(undo.kept)) tensor.dispose();
  undo.buffer.dispose();
}

// `gradOut` handed on, as it is or in another shape, is shared, not copied: gradients change in place only as accumulators, which nobody else holds.
function add(value: Value, grad: Tensor, gradOut: Tensor): void {
  const shared = grad === gradOut || grad.address === gradOut.address;
  const own = keep(shared ? grad.alias() : grad);
  if (!value.grad) {
    value.grad = own;
    value.shared = shared;
    return;
  }
  try {
    const { out } = kernels.addForward({ a: value.grad, b: own }, { kind: 'gradients' });
    value.drop();
    value.grad = keep(out);
    value.shared = false;
  } finally {
    own.dispose();
  }
}

/**
 * Which of an op's inputs need a gradient, or null when none does or nothing is being recorded: then the op saves nothing.
 */
export function needs(inputs: Inputs): Record<string, boolean> | null {
  const tape = Tape.current();
  if (!tape) return null;
  let result: Record<string, boolean> | null = null;
  for (const name in inputs) {
    const tensor = inputs[name];
    if (tensor && tape.tracks(tensor)) {
      result ??= {};
      result[name] = true;
    }
  }
  return tape.dry && result ? noInputs : result;
}

/** Enters an op's call into the current tape, if any of its inputs is tracked. Returns the output. */
export function record(op: string, inputs: Inputs, output: Tensor, recording: Recording): Tensor {
  const tape = Tape.current();
  if (tape && Object.values(inputs).some((tensor) => tensor && tape.tracks(tensor)))
    tape.record(op, inputs, [output], recording);
  return output;
}
