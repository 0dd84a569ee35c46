// Run with --expose-gc. Handles that are dropped, and none that are.
const { addon, Device, example, layerNorm, print, Tensor, trainingStep } = require('./sidetune.cjs');

const tick = () => new Promise((resolve) => setTimeout(resolve, 5));

async function collect(until) {
  for (let round = 0; round < 200 && !until(); round++) {
    global.gc();
    await tick();
  }
}

const programs = {
  async dropped() {
    const device = await Device.open();
    (() => {
      for (let i = 0; i < 100; i++) Tensor.zeros(device, [1000]).alias();
    })();
    await collect(() => addon.finalizedTensors() === 200);
    return { finalized: addon.finalizedTensors(), memory: device.memory().currentBytes };
  },

  async disposed() {
    const device = await Device.open();
    for (let round = 0; round < 20; round++) trainingStep(device);
    const memory = device.memory().currentBytes;
    await device.close();
    await collect(() => false);
    return { finalized: addon.finalizedTensors(), memory };
  },

  // A device lives as long as its tensors.
  async device() {
    const tensor = await (async () => Tensor.from(await Device.open(), [1, 2, 3], [3]))();
    await collect(() => false);
    return { numbers: [...(await tensor.alias().read())] };
  },

  // A promise keeps what it needs.
  async promise() {
    const promise = await (async () => {
      const device = await Device.open('cpu', { threads: 1 });
      const { x, weight, bias } = example(device, 4096, 1024);
      for (let call = 0; call < 50; call++) layerNorm(x, weight, bias).dispose();
      return [layerNorm(x, weight, bias).read(), device.synchronize()];
    })();
    await collect(() => false);
    const [numbers] = await Promise.all(promise);
    return { first: numbers[0] };
  },

  // Devices that nobody closes end with their handles: their threads go.
  async threads() {
    const { readdirSync } = require('node:fs');
    const count = () => readdirSync('/proc/self/task').length;
    await (await Device.open()).close();
    await tick();
    const before = count();
    await (async () => {
      for (let i = 0; i < 20; i++) await (await Device.open('cpu', { threads: 2 })).synchronize();
    })();
    await collect(() => count() <= before);
    return { left: count() - before };
  },
};

programs[process.argv[2]]().then(print);
