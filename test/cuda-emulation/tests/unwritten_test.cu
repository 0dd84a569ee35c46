// What kernels find where nobody wrote: the check build reports it instead (checked_test.cu).
#include <cmath>

#include "emulated.h"
#include "sample_kernels.cuh"

namespace sidetune::testing {
namespace {

__global__ void reads_shared(float* out) { out[threadIdx.x] = reinterpret_cast<float*>(sidetune_shared)[threadIdx.x]; }
__global__ void writes_shared() { reinterpret_cast<float*>(sidetune_shared)[threadIdx.x] = 1; }

TEST(shared_memory_is_nan_in_each_block) {
  Emulated device;
  Numbers<float> out(device, 64);
  SUCCEEDS(device.launch(writes_shared, 3, 64, 256));
  SUCCEEDS(device.launch(reads_shared, 2, 64, 256, out.data()));
  for (float value : out.read()) CHECK(std::isnan(value));
}

TEST(copies_that_are_not_waited_for_are_nan) {
  for (const char* order : kOrders) {
    Emulated device(order);
    Numbers<float> from(device, std::vector<float>(64 * 4, 1)), to(device, 64 * 4);
    SUCCEEDS(device.launch(copy_in_groups<1>, 1, 32, 1024, as_vectors(from), as_vectors(to), 60));
    const auto first = to.read();
    SUCCEEDS(device.launch(copy_in_groups<2>, 1, 32, 1024, as_vectors(from), as_vectors(to), 60));
    const auto none = to.read();
    for (int i = 0; i < 64; i++) {
      CHECK(std::isnan(first[i * 4]) == (i >= 32));
      CHECK(std::isnan(none[i * 4]));
    }
  }
}

}  // namespace
}  // namespace sidetune::testing
