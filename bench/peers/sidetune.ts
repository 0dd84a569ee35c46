/** Ourselves as a contender. */

import { version } from '../../lib/cli/output';
import { type AdamW, adamW } from '../../lib/optim';
import type { PetlModel } from '../../lib/petl';
import type { TrainingBatch } from '../../lib/petl/model';
import { Tensor } from '../../lib/tensor';
import type { Compute } from '../harness';
import type { Answer, Contender } from './contender';

abstract class Sidetune implements Contender {
  readonly software = 'sidetune';
  readonly version = version;

  /** @param model - is the contender's from now on, its backbone included */
  constructor(
    readonly model: PetlModel,
    readonly dtype: Compute,
    readonly data: TrainingBatch,
  ) {}

  abstract run(batch: number, passes: number): Promise<Answer>;

  async close(): Promise<void> {
    this.model.dispose();
    this.model.backbone.dispose();
  }
}

export class SidetuneInference extends Sidetune {
  async run(batch: number, passes: number): Promise<Answer> {
    const { device, backbone } = this.model;
    const { imageSize } = backbone.config;
    const shape = [batch, 3, imageSize, imageSize];
    using images = Tensor.from(device, this.data.images.subarray(0, batch * 3 * imageSize ** 2), shape, {
      kind: 'data',
    });
    await device.synchronize();
    const start = performance.now();
    for (let i = 1; i < passes; i++) this.model.forward(images).dispose();
    using logits = this.model.forward(images);
    await device.synchronize();
    const seconds = (performance.now() - start) / 1000;
    return { seconds, values: await logits.read() };
  }
}

export class SidetuneTraining extends Sidetune {
  readonly optimizer: AdamW = adamW(this.model.parameters());

  constructor(model: PetlModel, dtype: Compute, data: TrainingBatch) {
    super(model, dtype, data);
    model.device.resetPeak();
  }

  async run(batch: number, passes: number): Promise<Answer> {
    const { device, backbone } = this.model;
    const size = 3 * backbone.config.imageSize ** 2;
    const images = this.data.images.subarray(0, batch * size);
    const labels = this.data.labels.subarray(0, batch);
    const values: number[] = [];
    const start = performance.now();
    for (let i = 0; i < passes; i++) values.push((await this.model.step({ images, labels }, this.optimizer)).loss);
    await device.synchronize();
    const seconds = (performance.now() - start) / 1000;
    return { seconds, values, tensorPeakBytes: device.memory().peakBytes };
  }

  override async close(): Promise<void> {
    this.optimizer.dispose();
    await super.close();
  }
}
