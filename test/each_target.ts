import { Device, type DeviceOptions } from '../lib/device';

const heldTo = process.env.SIDETUNE_SIMD;

/** SIMD targets that tests of kernels run on; '' is the best that the machine has. A run that is held to one (vitest.config.mts) stays on it. */
export const simdTargets = heldTo ? [heldTo] : ['', 'AVX2', 'scalar'];

/** A device whose kernels run on a target. */
export async function openOn(simd: string, options: DeviceOptions): Promise<Device> {
  if (simd) process.env.SIDETUNE_SIMD = simd;
  const device = await Device.open('cpu', options);
  if (!heldTo) delete process.env.SIDETUNE_SIMD;
  return device;
}

/** A device with guard bytes on each target; for tests of kernels that have no gradient. Nothing may be left at the end. */
export async function onEachTarget(
  body: (device: Device) => Promise<void>,
  options: DeviceOptions = {},
): Promise<void> {
  for (const simd of simdTargets) {
    const device = await openOn(simd, { guards: true, ...options });
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
