// What AddressSanitizer ends the process for, found by asking it.
#include <sanitizer/asan_interface.h>

#include "emulated.h"

namespace sidetune::testing {
namespace {

__global__ void asks(int* is_poisoned, const char* data, int bytes, int shared_bytes) {
  is_poisoned[0] = __asan_address_is_poisoned(data - 1);
  is_poisoned[1] = __asan_address_is_poisoned(data + bytes - 1);
  is_poisoned[2] = __asan_address_is_poisoned(data + bytes);
  is_poisoned[3] = __asan_address_is_poisoned(sidetune_shared + shared_bytes - 1);
  is_poisoned[4] = __asan_address_is_poisoned(sidetune_shared + shared_bytes);
  is_poisoned[5] = __asan_address_is_poisoned(sidetune_shared + (227 << 10));
}

TEST(memory_past_the_end_is_poisoned) {
  Emulated device;
  for (int bytes : {1, 100, 256, 5 << 20}) {
    Numbers<char> data(device, static_cast<size_t>(bytes));
    for (int shared_bytes : {1, 12, 1000, 48 << 10}) {
      Numbers<int> is_poisoned(device, 6);
      SUCCEEDS(
          device.launch(asks, 1, 1, static_cast<size_t>(shared_bytes), is_poisoned.data(), data.data(), bytes, shared_bytes));
      CHECK(is_poisoned.read() == (std::vector<int>{1, 0, 1, 0, 1, 1}));
    }
  }
}

}  // namespace
}  // namespace sidetune::testing
