/** Which part of the model is at work, for traces. Only devices that are being traced are told, so it costs nothing elsewhere. */

import { addon, type Handle } from './native';

const devices = new Set<Handle>();
let path: readonly string[] = [];

/** Between the names of a part and those of the parts around it. */
export const separator = ' / ';

/** Runs `body`; calls that are queued before it returns belong to the part `name`, inside the part that is at work. '' names none. */
export function labelled<T>(name: string, body: () => T): T {
  if (name === '') return body();
  const before = path;
  enter([...path, name]);
  try {
    return body();
  } finally {
    enter(before);
  }
}

/** From now on the device's calls get labels. */
export function startLabels(device: Handle): void {
  devices.add(device);
  addon.deviceTraceLabel(device, path.join(separator));
}

export function stopLabels(device: Handle): void {
  devices.delete(device);
}

export function isLabelling(device: Handle): boolean {
  return devices.has(device);
}

function enter(next: readonly string[]): void {
  path = next;
  for (const device of devices) addon.deviceTraceLabel(device, path.join(separator));
}
