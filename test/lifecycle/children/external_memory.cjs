// What V8 is told of: bytes of large buffers, once each, while there are handles.
const { addon, Device, print, Tensor } = require('./sidetune.cjs');

async function main() {
  const device = await Device.open();
  const plan = await Device.open('cpu', { plan: true });
  const start = addon.externalMemory();
  const told = () => Math.round((addon.externalMemory() - start) / 2 ** 20);
  const history = {};
  const tensor = Tensor.empty(device, [2 ** 22]); // 16 MiB
  history.one = told();
  const alias = tensor.alias();
  const view = tensor.reshape([2 ** 11, 2 ** 11]);
  history.aliased = told();
  tensor.dispose();
  alias.dispose();
  history.oneLeft = told();
  view.dispose();
  view.dispose();
  history.none = told();
  const planned = Tensor.empty(plan, [2 ** 30]);
  history.planned = told();
  planned.dispose();
  const others = Array.from({ length: 3 }, () => Tensor.empty(device, [2 ** 22]));
  history.three = told();
  for (const other of others) other.dispose();
  history.end = told();
  // So the collector runs by itself where large tensors are dropped: 4 GiB in all, of which little is there at any time.
  for (let i = 0; i < 256; i++) {
    Tensor.empty(device, [2 ** 22]);
    await new Promise(setImmediate);
  }
  history.dropped = device.memory().peakBytes < 2 ** 30 ? 'collected' : device.memory().peakBytes;
  print(history);
}

main();
