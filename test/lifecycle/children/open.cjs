// Opens the devices named by the arguments, one after another; prints for each what it is or the error's code and message.
const { Device, print } = require('./sidetune.cjs');

(async () => {
  const results = [];
  for (const name of process.argv.slice(2)) {
    try {
      const device = await Device.open(name);
      results.push({ name, info: device.info() });
      await device.close();
    } catch ({ code, message }) {
      results.push({ name, code, message });
    }
  }
  print({ results, list: Device.list() });
})();
