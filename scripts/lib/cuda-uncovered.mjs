// Lines of native/cuda that no test under emulation runs, and why; `part` is in the line. scripts/cuda-coverage.mjs holds the rest to having run.
export const uncovered = [
  { file: 'backend.cu', part: '} catch (...) {', why: 'count() throws only when the host has no memory for a text' },
  { file: 'backend.cu', part: 'return status_of_current_exception();', why: 'the same' },
  { file: 'backend.cu', part: '}', why: 'the same' },
  {
    file: 'gemm.cu',
    part: '} catch (...) {',
    why: 'a preference whose attribute cuBLASLt refuses: the emulated one takes it',
  },
  { file: 'gemm.cu', part: 'cublasLtMatmulPreferenceDestroy(preference);', why: 'the same' },
  { file: 'gemm.cu', part: 'throw;', why: 'the same' },
  { file: 'gemm.cu', part: '}', why: 'the same' },
  {
    file: 'gemm.cu',
    part: 'convert(cuda, Rows{const_cast<void*>(from.data)',
    why: 'runs; gcov counts the call at its next line',
  },
  { file: 'runtime.cu', part: '}', why: 'the way out of an exception; the function returns before it' },
];
