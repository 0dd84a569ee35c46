// The instructions of tensor cores and of asynchronous copies, which have no name in CUDA C++. Compute capability 8.0 has all of
// them; what is compiled for less stops there, and launch plans choose other kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace sidetune::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define SIDETUNE_PTX(...) asm volatile(__VA_ARGS__)
#else
#define SIDETUNE_PTX(...) __trap()
#endif

// An address in the space of shared memory, as PTX wants it.
__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Four 8x8 matrices of 16-bit numbers. Lane l brings the address of row l % 8 of matrix l / 8, 16 bytes aligned, and gets of each
// matrix the two numbers 2 (l % 4) and on of row l / 4.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* shared_row) {
  SIDETUNE_PTX("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
// The same of the transposed matrices.
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4], const void* shared_row) {
  SIDETUNE_PTX("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// d += a b: a 16x16 and b 16x8 in bf16, d 16x8 in f32.
__device__ __forceinline__ void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  SIDETUNE_PTX(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Begins to copy 16 bytes into shared memory, zeros when !valid.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
  SIDETUNE_PTX("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
               : "memory");
}
// Copies begun since the last commit become a group.
__device__ __forceinline__ void copy_async_commit() { SIDETUNE_PTX("cp.async.commit_group;" ::: "memory"); }
// All groups but the N latest have arrived, for the thread that began them; other threads need a barrier besides.
template <int N>
__device__ __forceinline__ void copy_async_wait() {
  SIDETUNE_PTX("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#undef SIDETUNE_PTX

}  // namespace sidetune::cuda
