// The emulated twin of native/cuda/ptx/mma_instructions.cuh: the instructions of tensor cores and of asynchronous copies, with
// the fragment layouts of the PTX manual, lane by lane. Each but the copies is a meeting of the whole warp.
#pragma once

#include "cuda_runtime.h"

namespace sidetune::emulation {

struct LoadMatrix {
  uint32_t* registers;
  const void* row;
};
void complete_load_matrix(unsigned mask, void* const* brought);
void complete_load_matrix_transposed(unsigned mask, void* const* brought);

struct MultiplyBf16 {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};
void complete_multiply_bf16(unsigned mask, void* const* brought);

void copy_async(void* shared, const void* global, bool valid, Place place);
void commit_copies();
void wait_for_copies(int groups_left);

}  // namespace sidetune::emulation

namespace sidetune::cuda {

// Four 8x8 matrices of 16-bit numbers. Lane l brings the address of row l % 8 of matrix l / 8, 16 bytes aligned, and gets of each
// matrix the two numbers 2 (l % 4) and on of row l / 4.
inline void load_matrix_x4(uint32_t (&r)[4], const void* shared_row, const char* file = __builtin_FILE(),
                           int line = __builtin_LINE()) {
  emulation::LoadMatrix lane = {r, shared_row};
  emulation::warp_meeting("ldmatrix", 0xffffffffu, &lane, emulation::complete_load_matrix, {file, line});
}
// The same of the transposed matrices.
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* shared_row, const char* file = __builtin_FILE(),
                                      int line = __builtin_LINE()) {
  emulation::LoadMatrix lane = {r, shared_row};
  emulation::warp_meeting("ldmatrix.trans", 0xffffffffu, &lane, emulation::complete_load_matrix_transposed, {file, line});
}

// d += a b: a 16x16 and b 16x8 in bf16, d 16x8 in f32.
inline void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file = __builtin_FILE(),
                          int line = __builtin_LINE()) {
  emulation::MultiplyBf16 lane = {d, a, b};
  emulation::warp_meeting("mma.m16n8k16", 0xffffffffu, &lane, emulation::complete_multiply_bf16, {file, line});
}

// Begins to copy 16 bytes into shared memory, zeros when !valid. Until copy_async_wait() they are NaN.
inline void copy_async_16(void* shared, const void* global, bool valid, const char* file = __builtin_FILE(),
                          int line = __builtin_LINE()) {
  emulation::copy_async(shared, global, valid, {file, line});
}
// Copies begun since the last commit become a group.
inline void copy_async_commit() { emulation::commit_copies(); }
// All groups but the N latest have arrived, for the thread that began them; other threads need a barrier besides.
template <int N>
inline void copy_async_wait() {
  emulation::wait_for_copies(N);
}

}  // namespace sidetune::cuda
