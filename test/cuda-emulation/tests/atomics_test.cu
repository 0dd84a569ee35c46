#include "emulated.h"

namespace sidetune::testing {
namespace {

__global__ void adds(int* i, unsigned* u, unsigned long long* l, float* f) {
  atomicAdd(i, -1);
  atomicAdd(u, 2u);
  atomicAdd(l, 1ull << 32);
  atomicAdd(f, 0.5f);
}

TEST(atomics_add) {
  Emulated device;
  Numbers<int> i(device, std::vector<int>{0});
  Numbers<unsigned> u(device, std::vector<unsigned>{5});
  Numbers<unsigned long long> l(device, std::vector<unsigned long long>{0});
  Numbers<float> f(device, std::vector<float>{1});
  SUCCEEDS(device.launch(adds, 3, 100, 0, i.data(), u.data(), l.data(), f.data()));
  CHECK_EQUAL(i.read()[0], -300);
  CHECK_EQUAL(u.read()[0], 605u);
  CHECK_EQUAL(l.read()[0], 300ull << 32);
  CHECK_EQUAL(f.read()[0], 151.0f);
}

__global__ void exchanges(unsigned* at, unsigned* seen) {
  seen[0] = atomicExch(at, 7);
  seen[1] = atomicCAS(at, 3, 9);
  seen[2] = atomicCAS(at, 7, 9);
  seen[3] = *at;
}

TEST(atomics_exchange) {
  Emulated device;
  Numbers<unsigned> at(device, std::vector<unsigned>{5}), seen(device, 4);
  SUCCEEDS(device.launch(exchanges, 1, 1, 0, at.data(), seen.data()));
  CHECK(seen.read() == (std::vector<unsigned>{5, 7, 7, 9}));
}

}  // namespace
}  // namespace sidetune::testing
