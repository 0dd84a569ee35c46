import { bringUpToDate } from './build.mjs';

/** Brings the check build up to date: a folder of its own with a copy of the addon, see vitest.config.mts. */
export default function setup(): void {
  bringUpToDate('sidetune_checked_addon');
}
