import { Device, type DeviceOptions } from '../lib/device';

/** A device with guard bytes on each SIMD target that the machine has; for tests of kernels that have no gradient. Nothing may be left at the end. */
export async function onEachTarget(
  body: (device: Device) => Promise<void>,
  options: DeviceOptions = {},
): Promise<void> {
  for (const simd of ['', 'AVX2', 'scalar']) {
    if (simd) process.env.SIDETUNE_SIMD = simd;
    const device = await Device.open('cpu', { guards: true, ...options });
    delete process.env.SIDETUNE_SIMD;
    try {
      await body(device);
      const problem = await device.checkGuards();
      if (problem) throw new Error(problem);
      const { currentBytes } = device.memory();
      if (currentBytes !== 0) throw new Error(`${currentBytes} bytes are left on the device`);
    } finally {
      await device.close();
    }
  }
}
