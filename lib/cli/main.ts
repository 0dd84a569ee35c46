#!/usr/bin/env node
/** The executable. Nothing but this file may be loaded before the addon: where that fails, the reason is one sentence, too. */

function load(): typeof import('./program') | undefined {
  try {
    return require('./program');
  } catch (error) {
    if (process.argv.includes('--debug') || !(error instanceof Error && 'code' in error)) throw error;
    process.stderr.write(`error: ${error.message}\n`);
    return undefined;
  }
}

const program = load();
if (program) {
  void program.run(process.argv.slice(2)).then((status) => {
    process.exitCode = status;
  });
} else {
  process.exitCode = 1;
}
