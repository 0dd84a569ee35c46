#include <cuda_bf16.h>
#include <mma_instructions.cuh>

#include <cmath>

#include "emulated.h"
#include "sample_kernels.cuh"

namespace sidetune::testing {
namespace {

constexpr int kStride = 24;  // bf16 numbers: rows of 48 bytes

// d = a b with a [16, 16] and b [16, 8], both row by row; b goes through the transposing load.
__global__ void product(const __nv_bfloat16* a, const __nv_bfloat16* b, float* d) {
  auto* a_tile = reinterpret_cast<__nv_bfloat16*>(sidetune_shared);
  auto* b_tile = a_tile + 16 * kStride;
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) a_tile[i / 16 * kStride + i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) b_tile[i / 8 * kStride + i % 8] = b[i];
  for (int i = lane; i < 128; i += 32) b_tile[i / 8 * kStride + i % 8 + 8] = b[i];
  __syncwarp();
  uint32_t a_part[4], b_part[4];
  cuda::load_matrix_x4(a_part, a_tile + lane % 16 * kStride + lane / 16 * 8);
  cuda::load_matrix_x4_transposed(b_part, b_tile + lane % 16 * kStride + lane / 16 * 8);
  float sums[4] = {1, 1, 1, 1};
  cuda::multiply_bf16(sums, a_part, {b_part[0], b_part[1]});
  for (int i = 0; i < 4; i++) d[(lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

TEST(tensor_cores_multiply) {
  for (const char* order : kOrders) {
    Emulated device(order);
    std::vector<__nv_bfloat16> a(256), b(128);
    for (int i = 0; i < 256; i++) a[i] = __float2bfloat16_rn(static_cast<float>(i * 7 % 31) - 12);
    for (int i = 0; i < 128; i++) b[i] = __float2bfloat16_rn(static_cast<float>(i * 5 % 23) - 9);
    Numbers<__nv_bfloat16> a_there(device, a), b_there(device, b);
    Numbers<float> d(device, 128);
    SUCCEEDS(device.launch(product, 1, 32, 32 * kStride * 2, a_there.data(), b_there.data(), d.data()));
    const auto result = d.read();
    for (int row = 0; row < 16; row++) {
      for (int column = 0; column < 8; column++) {
        float expected = 1;
        for (int k = 0; k < 16; k++) expected += __bfloat162float(a[row * 16 + k]) * __bfloat162float(b[k * 8 + column]);
        CHECK_EQUAL(result[row * 8 + column], expected);
      }
    }
  }
}

__global__ void registers(uint32_t* out) {
  auto* tile = reinterpret_cast<uint16_t*>(sidetune_shared);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 8; i++) tile[lane * 8 + i] = static_cast<uint16_t>(lane * 8 + i);
  __syncwarp();
  uint32_t plain[4], transposed[4];
  cuda::load_matrix_x4(plain, tile + lane * 8);
  cuda::load_matrix_x4_transposed(transposed, tile + lane * 8);
  for (int i = 0; i < 4; i++) out[lane * 8 + i] = plain[i], out[lane * 8 + 4 + i] = transposed[i];
}

TEST(matrices_load_into_the_lanes_of_the_manual) {
  Emulated device;
  Numbers<uint32_t> out(device, 256);
  SUCCEEDS(device.launch(registers, 1, 32, 512, out.data()));
  const auto result = out.read();
  for (uint32_t lane = 0; lane < 32; lane++) {
    for (uint32_t matrix = 0; matrix < 4; matrix++) {
      const uint32_t first = matrix * 64 + lane / 4 * 8 + lane % 4 * 2;
      CHECK_EQUAL(result[lane * 8 + matrix], first | (first + 1) << 16);
      const uint32_t across = matrix * 64 + lane % 4 * 16 + lane / 4;
      CHECK_EQUAL(result[lane * 8 + 4 + matrix], across | (across + 8) << 16);
    }
  }
}

__global__ void bad_load(int offset) {
  uint32_t r[4];
  reinterpret_cast<float4*>(sidetune_shared)[threadIdx.x] = make_float4(0, 0, 0, 0);
  __syncwarp();
  cuda::load_matrix_x4(r, sidetune_shared + (threadIdx.x == 31 ? offset : 0));
}
__global__ void half_a_warp_multiplies() {
  float d[4] = {};
  if (threadIdx.x < 16) cuda::multiply_bf16(d, {0, 0, 0, 0}, {0, 0});
}

TEST(wrong_use_of_tensor_cores_is_reported) {
  CHECK_CONTAINS(Emulated().report_of(bad_load, 1, 32, 512, 8), "no multiple of 16");
  CHECK_CONTAINS(Emulated().report_of(bad_load, 1, 32, 512, 512), "not among the 512 bytes of shared memory");
  CHECK_CONTAINS(Emulated().report_of(bad_load, 1, 16, 512, 0), "whole warps");
  CHECK_CONTAINS(Emulated().report_of(half_a_warp_multiplies, 1, 32, 0), "mma.m16n8k16");
}

TEST(copies_arrive_when_waited_for) {
  for (const char* order : kOrders) {
    Emulated device(order);
    std::vector<float> numbers(64 * 4);
    for (size_t i = 0; i < numbers.size(); i++) numbers[i] = static_cast<float>(i);
    Numbers<float> from(device, numbers), to(device, 64 * 4);
    SUCCEEDS(device.launch(copy_in_groups<0>, 1, 32, 1024, as_vectors(from), as_vectors(to), 60));
    const auto result = to.read();
    for (int i = 0; i < 64; i++) {
      const int source = i / 32 * 32 + 31 - i % 32;
      CHECK_EQUAL(result[i * 4], source < 60 ? static_cast<float>(source * 4) : 0);
    }
  }
}

__global__ void bad_copy(const unsigned char* from, int to_offset, int from_offset) {
  cuda::copy_async_16(sidetune_shared + to_offset, from + from_offset, true);
}

TEST(wrong_copies_are_reported) {
  const auto report_of = [](int to_offset, int from_offset) {
    Emulated device;
    Numbers<unsigned char> from(device, std::vector<unsigned char>(64));
    return device.report_of(bad_copy, 1, 1, 128, from.data(), to_offset, from_offset);
  };
  CHECK_EQUAL(report_of(112, 48), "cudaSuccess");
  CHECK_CONTAINS(report_of(8, 0), "no multiple of 16");
  CHECK_CONTAINS(report_of(0, 8), "no multiple of 16");
  CHECK_CONTAINS(report_of(128, 0), "not among the 128 bytes");
  CHECK_CONTAINS(report_of(0, 64), "not inside an allocation");
}

}  // namespace
}  // namespace sidetune::testing
