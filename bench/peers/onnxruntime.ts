/** onnxruntime as a contender, in f32: a graph of our own, with all of its optimisations. */

import type { VitConfig } from '../../lib/models';
import type { Answer, Contender, PeerPool } from './contender';
import { peersFile, requirePackage } from './packages';
import { type Graph, imagesName, logitsName, opset, vitGraph } from './vit_graph';
import type { Weights } from './weights';

// What is used of the packages; the types that come with them are not there where they are not installed.
interface Protobuf {
  loadSync(file: string): { lookupType(name: string): { encode(message: object): { finish(): Uint8Array } } };
}

interface OrtTensor {
  readonly data: Float32Array;
}

interface Session {
  run(feeds: Readonly<Record<string, OrtTensor>>): Promise<Record<string, OrtTensor>>;
  release(): Promise<void>;
}

interface Onnxruntime {
  env: { versions: { node: string } };
  Tensor: new (type: 'float32', data: Float32Array, dims: readonly number[]) => OrtTensor;
  InferenceSession: {
    create(
      model: Uint8Array,
      options: {
        executionProviders: string[];
        graphOptimizationLevel: 'all';
        intraOpNumThreads: number;
        interOpNumThreads: number;
      },
    ): Promise<Session>;
  };
}

/** IR version 9 is the one that came with opset 20. */
const irVersion = 9;

/**
 * The bytes of an .onnx file.
 * @throws FileError when the packages of bench/peers are not installed
 */
export function encodeOnnx(graph: Graph): Uint8Array {
  const { loadSync } = requirePackage('protobufjs') as Protobuf;
  const model = { irVersion, producerName: 'sidetune', graph, opsetImport: [{ domain: '', version: opset }] };
  return loadSync(peersFile('onnx.proto')).lookupType('onnx.ModelProto').encode(model).finish();
}

export class OnnxruntimeInference implements Contender {
  readonly software = 'onnxruntime';
  readonly dtype = 'f32';

  private constructor(
    readonly version: string,
    private readonly ort: Onnxruntime,
    private readonly session: Session,
    private readonly config: VitConfig,
    private readonly images: Float32Array,
  ) {}

  /**
   * @param weights - of a backbone and a head
   * @throws FileError when the packages of bench/peers are not installed
   */
  static async open(
    config: VitConfig,
    weights: Weights,
    { images, threads, pool }: { images: Float32Array; threads: number; pool: PeerPool },
  ): Promise<OnnxruntimeInference> {
    const ort = requirePackage('onnxruntime-node') as Onnxruntime;
    const session = await ort.InferenceSession.create(encodeOnnx(vitGraph(config, weights, pool)), {
      executionProviders: ['cpu'],
      graphOptimizationLevel: 'all',
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
    });
    const { node: version } = ort.env.versions;
    return new OnnxruntimeInference(version, ort, session, config, images);
  }

  async run(batch: number, passes: number): Promise<Answer> {
    const { imageSize } = this.config;
    const images = this.images.subarray(0, batch * 3 * imageSize ** 2);
    const feeds = { [imagesName]: new this.ort.Tensor('float32', images, [batch, 3, imageSize, imageSize]) };
    let results: Record<string, OrtTensor> = {};
    const start = performance.now();
    for (let i = 0; i < passes; i++) results = await this.session.run(feeds);
    const seconds = (performance.now() - start) / 1000;
    return { seconds, values: results[logitsName]!.data };
  }

  async close(): Promise<void> {
    await this.session.release();
  }
}
