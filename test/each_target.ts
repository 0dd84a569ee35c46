import { Device, type DeviceOptions } from '../lib/device';

/** The device that tests of kernels, models and training run on (vitest.config.mts): 'cpu', 'cuda-emulated' or, where there is a GPU, 'cuda:0'. */
export const testDevice = process.env.SIDETUNE_TEST_DEVICE ?? 'cpu';
export const onCpu = testDevice === 'cpu';
/** On the check build (test/cuda-emulation), where all takes ten times as long. */
export const isWatched = process.env.SIDETUNE_TEST_WATCHED === '1';
/** Without cases that take long. */
export const isShort = process.env.SIDETUNE_TEST_SHORT === '1';

const heldTo = process.env.SIDETUNE_SIMD;

/** What kernels are tested on. On the CPU: SIMD targets, '' is the best that the machine has; a run that is held to one stays on it. */
export const targets: readonly string[] = !onCpu ? [testDevice] : heldTo ? [heldTo] : ['', 'AVX2', 'scalar'];

/** The test device. `threads` are a CPU's. */
export function openDevice({ threads, ...options }: DeviceOptions = {}): Promise<Device> {
  return Device.open(testDevice, onCpu && threads !== undefined ? { threads, ...options } : options);
}

/** The test device, its kernels on a target. */
export async function openOn(target: string, options: DeviceOptions): Promise<Device> {
  const simd = onCpu && !heldTo ? target : '';
  if (simd) process.env.SIDETUNE_SIMD = simd;
  const device = await openDevice(options);
  if (simd) delete process.env.SIDETUNE_SIMD;
  return device;
}

/** Ways to run the same kernels that must not change a bit: numbers of threads, or what the emulated GPU is and in which order its threads run. */
export const variants: readonly string[] = onCpu
  ? ['1', '2', '3']
  : testDevice === 'cuda-emulated'
    ? ['sms=1 order=ascending', 'sms=132 order=descending', 'sms=7 order=shuffled seed=5 shared=48']
    : ['first', 'second'];

export async function openVariant(variant: string, options: DeviceOptions = {}): Promise<Device> {
  if (onCpu) return openDevice({ ...options, threads: Number(variant) });
  if (testDevice !== 'cuda-emulated') return openDevice(options);
  const before = process.env.SIDETUNE_EMULATION;
  process.env.SIDETUNE_EMULATION = `${before ?? ''} ${variant}`; // what is said later holds
  try {
    return await openDevice(options);
  } finally {
    if (before === undefined) delete process.env.SIDETUNE_EMULATION;
    else process.env.SIDETUNE_EMULATION = before;
  }
}

/** A device with guard bytes on each target; for tests of kernels that have no gradient. Nothing may be left at the end. */
export async function onEachTarget(
  body: (device: Device) => Promise<void>,
  options: DeviceOptions = {},
): Promise<void> {
  for (const target of targets) {
    const device = await openOn(target, { guards: true, ...options });
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
