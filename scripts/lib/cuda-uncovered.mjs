// Lines of native/cuda that no test under emulation can run, and why; `part` is in the line. scripts/cuda-coverage.mjs holds the rest to having run.
export const uncovered = [];
