// What the children use, as compiled in dist/lib.
const path = require('node:path');

const lib = (name) => require(path.join(__dirname, '..', '..', '..', 'dist', 'lib', name));

module.exports = {
  ...lib('autograd'),
  ...lib('device'),
  ...lib('errors'),
  ...lib('scope'),
  ...lib('tensor'),
  addon: lib('native').addon,
  layerNorm: lib('ops/layer_norm').layerNorm,

  /** A tensor of ones [rows, width] and parameters of layerNorm that leave zeros of it. */
  example(device, rows = 4, width = 8) {
    const { Tensor } = module.exports;
    const ones = (shape) => Tensor.from(device, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1), shape);
    return { x: ones([rows, width]), weight: ones([width]), bias: ones([width]) };
  },
  /** Forward and backward through two norms; everything is disposed. */
  trainingStep(device, rows, width) {
    const { example, layerNorm, scope, Tape } = module.exports;
    scope(() => {
      const { x, weight, bias } = example(device, rows, width);
      const tape = new Tape();
      for (const tensor of [x, weight, bias]) tape.watch(tensor);
      const out = tape.run(() => scope(() => layerNorm(layerNorm(x, weight, bias), weight, bias)));
      tape.seed(out, x);
      tape.backward();
      for (const tensor of [x, weight, bias]) tape.takeGradient(tensor).dispose();
    });
  },
  print(result) {
    console.log(JSON.stringify(result));
  },
};
