#include <cuda_bf16.h>

#include <cmath>
#include <limits>

#include "emulated.h"

namespace sidetune::testing {
namespace {

static_assert(sizeof(float2) == 8 && alignof(float2) == 8 && sizeof(float4) == 16 && alignof(float4) == 16);
static_assert(sizeof(float3) == 12 && alignof(float3) == 4);
static_assert(sizeof(uint4) == 16 && alignof(uint4) == 16 && alignof(int2) == 8);
static_assert(sizeof(__nv_bfloat16) == 2 && sizeof(__nv_bfloat162) == 4 && alignof(__nv_bfloat162) == 4);

unsigned short bits(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }

TEST(bf16_rounds_to_nearest_even) {
  CHECK_EQUAL(bits(1.0f), 0x3f80);
  CHECK_EQUAL(bits(1.0f + 1.0f / 256), 0x3f80);          // half way, to even
  CHECK_EQUAL(bits(1.0f + 3.0f / 256), 0x3f82);          // half way, to even
  CHECK_EQUAL(bits(1.0f + 1.0f / 256 + 1e-6f), 0x3f81);  // above half way
  CHECK_EQUAL(bits(-0.0f), 0x8000);
  CHECK_EQUAL(bits(std::numeric_limits<float>::max()), 0x7f80);
  CHECK_EQUAL(bits(-std::numeric_limits<float>::infinity()), 0xff80);
  CHECK_EQUAL(bits(1e-45f), 0);
}

TEST(bf16_nan_stays_nan) {
  for (unsigned nan : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu})
    CHECK(std::isnan(__bfloat162float(__float2bfloat16_rn(__uint_as_float(nan)))));
}

TEST(bf16_every_number_survives) {
  for (unsigned value = 0; value < 0x10000; value++) {
    const float wide = __bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(value)));
    if (!std::isnan(wide)) CHECK_EQUAL(bits(wide), value);
  }
}

TEST(bf16_pairs_have_x_below) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(1.0f, 2.0f);
  unsigned whole;
  std::memcpy(&whole, &pair, sizeof whole);
  CHECK_EQUAL(whole, 0x40003f80u);
  CHECK_EQUAL(__low2float(pair), 1.0f);
  CHECK_EQUAL(__high2float(pair), 2.0f);
  const float2 wide = __bfloat1622float2(pair);
  CHECK(wide.x == 1.0f && wide.y == 2.0f);
}

TEST(arithmetic) {
  CHECK_EQUAL(rsqrtf(4.0f), 0.5f);
  CHECK_EQUAL(__fdividef(1.0f, 4.0f), 0.25f);
  CHECK_EQUAL(__frcp_rn(8.0f), 0.125f);
  CHECK_EQUAL(__fmaf_rn(1.0f + 1.0f / 4096, 1.0f + 1.0f / 4096, -1.0f), 1.0f / 2048 + 1.0f / 16777216);  // rounded once
  CHECK_EQUAL(__saturatef(std::nanf("")), 0.0f);
  CHECK_EQUAL(__float2int_rn(2.5f), 2);
  CHECK_EQUAL(__clz(1), 31);
  CHECK_EQUAL(__ffs(8), 4);
  CHECK_EQUAL(__popc(0xf0u), 4);
  CHECK_EQUAL(__umulhi(0x80000000u, 6u), 3u);
  CHECK_EQUAL(min(3, 2) + max(3, 2), 5);
  CHECK_EQUAL(__uint_as_float(__float_as_uint(-1.5f)), -1.5f);
}

}  // namespace
}  // namespace sidetune::testing
