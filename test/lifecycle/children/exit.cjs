// Ends in the way of the first argument while seconds of work are queued.
const { Device, example, layerNorm, print } = require('./sidetune.cjs');

async function main(way) {
  const device = await Device.open('cpu', { threads: 1 });
  const { x, weight, bias } = example(device, 4096, 1024);
  for (let call = 0; call < (way === 'await' ? 20 : 2000); call++) layerNorm(x, weight, bias).dispose();
  const out = layerNorm(x, weight, bias);
  switch (way) {
    case 'return': // nothing waits: the process ends when the call that runs is done
      print({ closed: device.closed });
      return;
    case 'exit':
      print({});
      process.exit(3);
      break;
    case 'exit-waiting':
      out.read().then(() => print({ settled: true }));
      setTimeout(() => process.exit(4), 10);
      break;
    case 'throw':
      throw new Error('on purpose');
    case 'await': // a promise that nobody holds keeps the process
      out.read().then((numbers) => print({ first: numbers[0] }));
      return;
    case 'close': {
      const closing = device.close();
      const state = device.closed;
      await closing;
      print({ state });
      return;
    }
  }
}

main(process.argv[2]);
