// Run with --expose-gc: a thousand rounds of forward and backward leave nothing behind, neither in the device nor in the process.
const { readdirSync } = require('node:fs');
const { addon, Device, print, trainingStep } = require('./sidetune.cjs');

async function main() {
  const device = await Device.open('cpu', { threads: 1 });
  const state = () => ({
    ...device.memory(),
    threads: readdirSync('/proc/self/task').length,
    files: readdirSync('/proc/self/fd').length,
    // An immediate is a callback about to run, not something that is kept.
    resources: process
      .getActiveResourcesInfo()
      .filter((name) => name !== 'Immediate')
      .sort(),
  });
  const rounds = async (count) => {
    for (let round = 0; round < count; round++) {
      trainingStep(device, 40, 64);
      if (round % 10 === 9) await device.synchronize();
    }
    await device.synchronize();
    global.gc();
    await new Promise((resolve) => setTimeout(resolve, 20));
    global.gc();
    return process.memoryUsage().heapUsed;
  };
  const heapBefore = await rounds(300);
  const before = state();
  const heapAfter = await rounds(1000);
  const after = state();
  print({ before, after, heapGrowth: heapAfter - heapBefore, finalized: addon.finalizedTensors() });
}

main();
