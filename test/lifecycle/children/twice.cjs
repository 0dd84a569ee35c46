// The addon loaded a second time into the same environment. Handles are of one kind, so each instance takes the other's.
const path = require('node:path');
const { addon, Device, example, print } = require('./sidetune.cjs');

async function main() {
  const root = path.join(__dirname, '..', '..', '..');
  const file = process.env.SIDETUNE_ADDON ?? require('node-gyp-build').resolve(root);
  delete require.cache[require.resolve(file)];
  const second = require(file);
  const device = await Device.open();
  const other = second.deviceOpen('cpu', {});
  const { x, weight, bias } = example(device);
  const made = second.kernels.layerNormForward({ x: x.handle, weight: weight.handle, bias: bias.handle }, {});
  const bytes = [await addon.tensorRead(made.out), await second.tensorRead(x.handle)].map(
    (buffer) => buffer.byteLength,
  );
  let mixed;
  try {
    addon.kernels.layerNormForward(
      { x: x.handle, weight: weight.handle, bias: second.tensorCreate(other, [8], 'f32', 'data', 'plain') },
      {},
    );
  } catch (error) {
    mixed = error.code;
  }
  print({ another: second !== addon, bytes, mixed });
}

main();
