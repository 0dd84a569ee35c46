// `node scripts/lib/test-summary.mjs FILE [SUFFIX...]` reads vitest's JSON report and prints 'N passed, N failed'.
// A test file that could not be loaded counts as one failure. Exit status 1 when anything failed, when nothing ran, or when
// a test file ending in one of the suffixes is not among those that passed.
import { readFileSync } from 'node:fs';

const [file, ...required] = process.argv.slice(2);
const results = JSON.parse(readFileSync(file, 'utf8'));
const broken = results.testResults.filter(
  ({ status, assertionResults }) => status === 'failed' && assertionResults.length === 0,
);
const failed = results.numFailedTests + broken.length;

for (const suffix of required) {
  if (results.testResults.some(({ name, status }) => name.endsWith(suffix) && status === 'passed')) continue;
  console.error(`error: ${suffix} did not pass`);
  process.exitCode = 1;
}
console.log(`${results.numPassedTests} passed, ${failed} failed`);
if (failed > 0 || results.numPassedTests === 0) process.exitCode = 1;
