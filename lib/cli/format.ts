/** Numbers for people. */

/** Three digits and a unit: '512 MiB', '1.23 GiB'. */
export function bytes(count: number): string {
  return scaled(count, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']);
}

/** Three digits and a decimal prefix: '512', '1.23 G'. */
export function metric(count: number): string {
  return scaled(count, 1000, ['', 'k', 'M', 'G', 'T']).trimEnd();
}

function scaled(count: number, base: number, units: readonly string[]): string {
  let value = count;
  let unit = 0;
  while (value >= base - 0.5 && unit < units.length - 1) {
    value /= base;
    unit++;
  }
  return `${unit === 0 ? value : digits(value)} ${units[unit]}`;
}

/** Three significant digits, never more behind the point: '0.731', '45.1', '1234'. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return '-';
  const before = value >= 99.95 ? 3 : value >= 9.995 ? 2 : value >= 0.9995 ? 1 : 0;
  return value.toFixed(3 - before);
}

/** '12.3 %' of a share of 1. */
export function percent(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : '-';
}

/** '0:07', '12:30', '1:02:03'. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '-';
  const whole = Math.round(seconds);
  const two = (value: number): string => String(value).padStart(2, '0');
  const minutes = Math.floor(whole / 60);
  const rest = two(whole % 60);
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${rest}`;
}

/** '85,798,656' */
export function count(value: number): string {
  return value.toLocaleString('en-US');
}
