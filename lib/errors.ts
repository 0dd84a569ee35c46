/**
 * Every error that sidetune throws is a {@link SidetuneError}: `code` is stable and made for programs, `message` is made for people and may improve.
 * Native code throws these same classes: `lib/native.ts` hands them over once, when the addon is loaded.
 */

/** What an error knows beside its sentence. */
export interface ErrorDetails {
  /** The kernel or function that refused. */
  kernel?: string;
  /** The argument or option at fault, or the field of a file. */
  argument?: string;
  /** What came. */
  got?: string;
  /** What was expected. */
  expected?: string;
  cause?: unknown;
}

export class SidetuneError extends Error {
  readonly code: string;
  readonly kernel?: string;
  readonly argument?: string;
  readonly got?: string;
  readonly expected?: string;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    if (details.kernel !== undefined) this.kernel = details.kernel;
    if (details.argument !== undefined) this.argument = details.argument;
    if (details.got !== undefined) this.got = details.got;
    if (details.expected !== undefined) this.expected = details.expected;
  }
}

/** `SIDETUNE_ARGUMENT`: an option or argument of the wrong type or range, an unknown option. */
export class ArgumentError extends SidetuneError {
  constructor(message: string, details?: ErrorDetails) {
    super('SIDETUNE_ARGUMENT', message, details);
  }
}

/** `SIDETUNE_SHAPE`: a shape that does not fit, tensors that overlap. */
export class ShapeError extends SidetuneError {
  constructor(message: string, details?: ErrorDetails) {
    super('SIDETUNE_SHAPE', message, details);
  }
}

/** `SIDETUNE_DTYPE`: a dtype or layout that is not accepted here, or not by this device. */
export class DtypeError extends SidetuneError {
  constructor(message: string, details?: ErrorDetails) {
    super('SIDETUNE_DTYPE', message, details);
  }
}

/** `SIDETUNE_DISPOSED`: a tensor that is gone. `SIDETUNE_MODIFIED`: one that changed after it was saved for backward. */
export class DisposedError extends SidetuneError {
  constructor(message: string, details?: ErrorDetails & { code?: 'SIDETUNE_DISPOSED' | 'SIDETUNE_MODIFIED' }) {
    super(details?.code ?? 'SIDETUNE_DISPOSED', message, details);
  }
}

/** `SIDETUNE_DEVICE`: devices mixed or closed. `SIDETUNE_NO_BACKEND`: no such device here. `SIDETUNE_LATE`: a kernel failed after it was queued. */
export class DeviceError extends SidetuneError {
  constructor(
    message: string,
    details?: ErrorDetails & { code?: 'SIDETUNE_DEVICE' | 'SIDETUNE_NO_BACKEND' | 'SIDETUNE_LATE' },
  ) {
    super(details?.code ?? 'SIDETUNE_DEVICE', message, details);
  }
}

/** `SIDETUNE_MEMORY`: the device has no room: asked, in use, limit. */
export class MemoryError extends SidetuneError {
  constructor(message: string, details?: ErrorDetails) {
    super('SIDETUNE_MEMORY', message, details);
  }
}

/** `SIDETUNE_METHOD`: a method breaks its own promise: a hook that throws or returns what does not fit, a parameter that no gradient reaches. */
export class MethodError extends SidetuneError {
  constructor(message: string, details?: ErrorDetails) {
    super('SIDETUNE_METHOD', message, details);
  }
}

/** `SIDETUNE_FORMAT`: a file that cannot be read as what it should be: path, offset, field. */
export class FormatError extends SidetuneError {
  constructor(message: string, details?: ErrorDetails) {
    super('SIDETUNE_FORMAT', message, details);
  }
}

/** `SIDETUNE_FILE`: a file that the system does not give or take: missing, no permission, disk full. `cause` is the system's own error. */
export class FileError extends SidetuneError {
  constructor(message: string, details?: ErrorDetails) {
    super('SIDETUNE_FILE', message, details);
  }
}
