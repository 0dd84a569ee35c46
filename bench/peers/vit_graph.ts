/** Our vision transformer with its head as an ONNX graph, in the standard's ops as an exporter writes them: nothing in it is made for one runtime. */

import type { VitConfig } from '../../lib/models';
import type { PeerPool } from './contender';
import type { Weights } from './weights';

/** Has LayerNormalization (17) and Gelu (20). */
export const opset = 20;

/** The graph's input, [batch, 3, H, W]. */
export const imagesName = 'images';
/** The graph's output, [batch, classes]. */
export const logitsName = 'logits';

/** The number in `data_type` and `elem_type`. */
export const elementType = { float32: 1, int64: 7 } as const;

const attributeType = { f: 1, i: 2, ints: 7 } as const;

// The messages of onnx.proto, as protobufjs takes them.
export interface Attribute {
  name: string;
  type: number;
  f?: number;
  i?: number;
  ints?: number[];
}

export interface Node {
  name: string;
  opType: string;
  input: string[];
  output: string[];
  attribute: Attribute[];
}

export interface Initializer {
  name: string;
  dims: number[];
  dataType: number;
  rawData: Uint8Array;
}

export interface ValueInfo {
  name: string;
  type: { tensorType: { elemType: number; shape: { dim: ({ dimValue: number } | { dimParam: string })[] } } };
}

export interface Graph {
  name: string;
  node: Node[];
  initializer: Initializer[];
  input: ValueInfo[];
  output: ValueInfo[];
}

type AttributeValue = { f: number } | { i: number } | { ints: number[] };

/** Collects nodes and initializers. Values are known by their names. */
class GraphBuilder {
  readonly nodes: Node[] = [];
  readonly initializers: Initializer[] = [];
  readonly #uses = new Map<string, number>();

  /** Adds a node and returns its result, which is called place/opType, with a number from the second on. */
  op(place: string, opType: string, input: string[], attributes: Record<string, AttributeValue> = {}): string {
    const stem = `${place}/${opType}`;
    const uses = this.#uses.get(stem) ?? 0;
    this.#uses.set(stem, uses + 1);
    const [result] = this.opAs([uses === 0 ? stem : `${stem}_${uses}`], opType, input, attributes);
    return result!;
  }

  /** Adds a node whose results have names of their own. */
  opAs(output: string[], opType: string, input: string[], attributes: Record<string, AttributeValue>): string[] {
    const attribute = Object.entries(attributes).map(([name, value]) => {
      const [kind] = Object.keys(value) as [keyof typeof attributeType];
      return { name, type: attributeType[kind], ...value };
    });
    this.nodes.push({ name: output[0]!, opType, input, output, attribute });
    return output;
  }

  floats(name: string, dims: readonly number[], data: Float32Array): string {
    return this.#add(name, dims, elementType.float32, data);
  }

  /** Shapes, axes and the like; equal ones are stored once. */
  ints(...values: number[]): string {
    return this.#add(
      `ints/${values.join('_')}`,
      [values.length],
      elementType.int64,
      BigInt64Array.from(values.map(BigInt)),
    );
  }

  /** An index that takes its axis away. */
  scalar(value: number): string {
    return this.#add(`ints/scalar_${value}`, [], elementType.int64, BigInt64Array.of(BigInt(value)));
  }

  #add(name: string, dims: readonly number[], dataType: number, { buffer, byteOffset, byteLength }: ArrayBufferView) {
    if (!this.initializers.some((known) => known.name === name)) {
      this.initializers.push({
        name,
        dims: [...dims],
        dataType,
        rawData: new Uint8Array(buffer, byteOffset, byteLength),
      });
    }
    return name;
  }
}

/** images [batch, 3, H, W] → logits [batch, classes]; any batch. */
export function vitGraph(config: VitConfig, weights: Weights, pool: PeerPool): Graph {
  const { imageSize, patchSize, dim, depth, heads, layerNormEps } = config;
  const g = new GraphBuilder();
  const tensor = (name: string) => weights.get(name)!;
  const weight = (name: string): string => g.floats(name, tensor(name).shape, tensor(name).data);
  const norm = (name: string, x: string): string =>
    g.op(name, 'LayerNormalization', [x, weight(`${name}.weight`), weight(`${name}.bias`)], {
      axis: { i: -1 },
      epsilon: { f: layerNormEps },
    });
  // MatMul has no transposed form; an exporter turns the constant.
  const linear = (name: string, x: string): string => {
    const { shape, data } = tensor(`${name}.weight`);
    const [rows, columns] = shape as [number, number];
    const turned = g.floats(`${name}.weight.T`, [columns, rows], transposed(data, rows, columns));
    return g.op(name, 'Add', [g.op(name, 'MatMul', [x, turned]), weight(`${name}.bias`)]);
  };

  const patches = g.op(
    'patch_embed',
    'Conv',
    [imagesName, weight('patch_embed.proj.weight'), weight('patch_embed.proj.bias')],
    { kernel_shape: { ints: [patchSize, patchSize] }, strides: { ints: [patchSize, patchSize] } },
  );
  const rows = g.op('patch_embed', 'Reshape', [patches, g.ints(0, dim, -1)]);
  const patchTokens = g.op('patch_embed', 'Transpose', [rows], { perm: { ints: [0, 2, 1] } });
  const batch = g.op('embed', 'Shape', [patchTokens], { start: { i: 0 }, end: { i: 1 } });
  const clsShape = g.op('embed', 'Concat', [batch, g.ints(1, dim)], { axis: { i: 0 } });
  const cls = g.op('embed', 'Expand', [weight('cls_token'), clsShape]);
  const tokens = g.op('embed', 'Concat', [cls, patchTokens], { axis: { i: 1 } });
  let z = g.op('embed', 'Add', [tokens, weight('pos_embed')]);

  const scale = g.floats('attn.scale', [], Float32Array.of((dim / heads) ** -0.5));
  const attention = (place: string, x: string): string => {
    const qkv = g.opAs(
      ['q', 'k', 'v'].map((part) => `${place}/${part}`),
      'Split',
      [linear(`${place}.qkv`, x)],
      { axis: { i: -1 }, num_outputs: { i: 3 } },
    );
    const [q, k, v] = qkv.map((part, i) => {
      const split = g.op(place, 'Reshape', [part, g.ints(0, 0, heads, dim / heads)]);
      return g.op(place, 'Transpose', [split], { perm: { ints: i === 1 ? [0, 2, 3, 1] : [0, 2, 1, 3] } });
    }) as [string, string, string];
    const scores = g.op(place, 'Mul', [g.op(place, 'MatMul', [q, k]), scale]);
    const mixed = g.op(place, 'MatMul', [g.op(place, 'Softmax', [scores], { axis: { i: -1 } }), v]);
    const merged = g.op(place, 'Transpose', [mixed], { perm: { ints: [0, 2, 1, 3] } });
    return linear(`${place}.proj`, g.op(place, 'Reshape', [merged, g.ints(0, 0, dim)]));
  };
  for (let i = 0; i < depth; i++) {
    const block = `blocks.${i}`;
    z = g.op(block, 'Add', [z, attention(`${block}.attn`, norm(`${block}.norm1`, z))]);
    const hidden = g.op(`${block}.mlp`, 'Gelu', [linear(`${block}.mlp.fc1`, norm(`${block}.norm2`, z))]);
    z = g.op(block, 'Add', [z, linear(`${block}.mlp.fc2`, hidden)]);
  }

  const patchCount = (imageSize / patchSize) ** 2;
  const row =
    pool === 'cls'
      ? g.op('pool', 'Gather', [z, g.scalar(0)], { axis: { i: 1 } })
      : g.op(
          'pool',
          'ReduceMean',
          [g.op('pool', 'Slice', [z, g.ints(1), g.ints(1 + patchCount), g.ints(1)]), g.ints(1)],
          {
            keepdims: { i: 0 },
          },
        );
  g.opAs([logitsName], 'Gemm', [norm('norm', row), weight('head.weight'), weight('head.bias')], {
    transB: { i: 1 },
  });

  const [classes] = tensor('head.weight').shape as [number];
  return {
    name: 'vit',
    node: g.nodes,
    initializer: g.initializers,
    input: [value(imagesName, [3, imageSize, imageSize])],
    output: [value(logitsName, [classes])],
  };
}

/** A value whose first dimension is the batch. */
function value(name: string, shape: readonly number[]): ValueInfo {
  const dim = [{ dimParam: 'batch' }, ...shape.map((dimValue) => ({ dimValue }))];
  return { name, type: { tensorType: { elemType: elementType.float32, shape: { dim } } } };
}

function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) result[column * rows + row] = data[row * columns + column]!;
  }
  return result;
}
