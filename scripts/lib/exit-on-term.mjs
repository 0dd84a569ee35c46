// Loaded into vitest's workers by scripts/cuda-coverage.mjs: a worker that is told to end does so in order, so that what was counted is written.
process.on('SIGTERM', () => process.exit());
