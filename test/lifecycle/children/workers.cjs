// The addon in worker threads. The main thread loads it only where a program says so.
const { isMainThread, parentPort, Worker, workerData } = require('node:worker_threads');

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function work() {
  const { Device, example, layerNorm, scope } = require('./sidetune.cjs');
  const { mode, seed } = workerData;
  const device = await Device.open('cpu', { threads: 2 });
  if (mode === 'endless') {
    const { x, weight, bias } = example(device, 4096, 1024);
    parentPort.postMessage('started');
    for (;;) {
      for (let call = 0; call < 20; call++) layerNorm(x, weight, bias).dispose();
      await device.synchronize();
    }
  }
  if (mode === 'busy') {
    const { x, weight, bias } = example(device, 4096, 1024);
    for (let call = 0; call < 2000; call++) layerNorm(x, weight, bias).dispose();
    layerNorm(x, weight, bias).read();
    parentPort.postMessage('started');
    for (;;); // terminated here, with work and a promise queued
  }
  const { x, weight, bias } = example(device, 64, 512);
  let sum = 0;
  for (let round = 0; round < 50; round++) {
    x.write(Float32Array.from({ length: 64 * 512 }, (_, i) => Math.sin(i * (seed + round))));
    const numbers = await scope(async () => layerNorm(layerNorm(x, weight, bias), weight, bias).read());
    sum += numbers.reduce((total, value, index) => total + value * ((index % 7) - 3), 0);
  }
  if (mode !== 'leave') {
    for (const tensor of [x, weight, bias]) tensor.dispose();
    await device.close();
  }
  return sum;
}

function start(mode, seed = 1) {
  const worker = new Worker(__filename, { workerData: { mode, seed } });
  const message = new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  const exit = new Promise((resolve) => worker.once('exit', resolve));
  return { worker, message, exit };
}

const programs = {
  async together() {
    const alone = await start('sum', 5).message;
    const both = await Promise.all([start('sum', 5).message, start('sum', 6).message]);
    return { same: both[0] === alone, differ: both[0] !== both[1] };
  },

  // Workers that load the addon and end, some with tensors and an open device left: OpenMP's threads must not run in unmapped code.
  async only() {
    const codes = [];
    for (let i = 0; i < 4; i++) {
      const { message, exit } = start(i % 2 ? 'sum' : 'leave');
      await message;
      codes.push(await exit);
      await wait(50);
    }
    return { codes };
  },

  async terminate() {
    let terminated = 0;
    for (let i = 0; i < 6; i++) {
      const { worker, message } = start(i % 2 ? 'busy' : 'endless');
      await message;
      await wait(5 * i);
      await worker.terminate();
      terminated++;
    }
    // The process is none the worse for it.
    const sum = await start('sum').message;
    return { terminated, finite: Number.isFinite(sum) };
  },

  // Workers that compute, and are terminated, beside a device of the main thread that computes too.
  async beside() {
    const { Device, example, layerNorm } = require('./sidetune.cjs');
    const device = await Device.open('cpu', { threads: 2 });
    const { x, weight, bias } = example(device, 512, 512);
    const run = async () => {
      let y = layerNorm(x, weight, weight);
      for (let call = 0; call < 200; call++) {
        const next = layerNorm(y, weight, bias);
        y.dispose();
        y = next;
      }
      const bytes = Buffer.from(await y.readBytes());
      y.dispose();
      return bytes;
    };
    const alone = await run();
    const others = [start('endless'), start('busy'), start('endless')];
    await Promise.all(others.map(({ message }) => message));
    const runs = [];
    for (const { worker } of others) {
      const result = run();
      await wait(2);
      await worker.terminate();
      runs.push((await result).equals(alone));
    }
    await device.close();
    return { runs };
  },

  async exit() {
    const { message } = start('endless');
    await message;
    process.exit(5);
  },

  async main() {
    const { Device, Tensor } = require('./sidetune.cjs');
    const device = await Device.open();
    const tensor = Tensor.from(device, [1, 2, 3], [3]);
    await Promise.all([start('sum').exit, start('leave').exit]);
    return { numbers: [...(await tensor.read())] };
  },
};

if (isMainThread) {
  programs[process.argv[2]]().then((result) => console.log(JSON.stringify(result)));
} else {
  work().then((sum) => parentPort.postMessage(sum));
}
