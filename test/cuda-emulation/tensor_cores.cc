#include <mma_instructions.cuh>

#include <cstring>

#include "execution_state.h"
#include "observer.h"

namespace sidetune::emulation {
namespace {

float widen(uint32_t bits) {
  bits <<= 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void check_shared(const char* what, const void* address, size_t bytes, Place place) {
  const auto* at = static_cast<const unsigned char*>(address);
  const size_t shared = execution().launch().shared_bytes;
  if (at < sidetune_shared || at + bytes > sidetune_shared + shared)
    execution().fail(place, "%s: the address is not among the %zu bytes of shared memory of the launch", what, shared);
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) execution().fail(place, "%s: the address is no multiple of 16", what);
}

void check_whole_warp(unsigned mask) {
  if (mask != 0xffffffffu)
    execution().fail(execution().place(), "tensor cores work for whole warps, and this one has fewer than 32 threads");
}

void load_matrix(unsigned mask, void* const* brought, bool is_transposed) {
  check_whole_warp(mask);
  uint16_t numbers[4][8][8];
  for (int lane = 0; lane < 32; lane++) {
    const void* row = static_cast<LoadMatrix*>(brought[lane])->row;
    check_shared("ldmatrix", row, 16, execution().place());
    if (observer) observer->read(execution().thread() / 32 * 32 + lane, row, 16, execution().place());
    std::memcpy(numbers[lane / 8][lane % 8], row, 16);
  }
  for (int lane = 0; lane < 32; lane++) {
    for (int matrix = 0; matrix < 4; matrix++) {
      const int row = lane / 4, column = lane % 4 * 2;
      const auto& m = numbers[matrix];
      const uint16_t low = is_transposed ? m[column][row] : m[row][column];
      const uint16_t high = is_transposed ? m[column + 1][row] : m[row][column + 1];
      static_cast<LoadMatrix*>(brought[lane])->registers[matrix] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}

void arrive(const std::vector<Copies::Copy>& group) {
  for (const Copies::Copy& copy : group) {
    if (observer) observer->written(execution().thread(), copy.shared, 16, copy.place);
    if (copy.global)
      std::memcpy(copy.shared, copy.global, 16);
    else
      std::memset(copy.shared, 0, 16);
  }
}

}  // namespace

void complete_load_matrix(unsigned mask, void* const* brought) { load_matrix(mask, brought, false); }
void complete_load_matrix_transposed(unsigned mask, void* const* brought) { load_matrix(mask, brought, true); }

// Register r of a lane holds two numbers side by side: of a, row lane / 4 + 8 (r % 2), columns 2 (lane % 4) + 8 (r / 2) and on;
// of b, rows 2 (lane % 4) + 8 r and on, column lane / 4; number i of d is row lane / 4 + 8 (i / 2), column 2 (lane % 4) + i % 2.
void complete_multiply_bf16(unsigned mask, void* const* brought) {
  check_whole_warp(mask);
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const auto& own = *static_cast<MultiplyBf16*>(brought[lane]);
    const int row = lane / 4, column = lane % 4 * 2;
    for (int r = 0; r < 4; r++) {
      a[row + 8 * (r % 2)][column + 8 * (r / 2)] = widen(own.a[r] & 0xffff);
      a[row + 8 * (r % 2)][column + 8 * (r / 2) + 1] = widen(own.a[r] >> 16);
    }
    for (int r = 0; r < 2; r++) {
      b[column + 8 * r][row] = widen(own.b[r] & 0xffff);
      b[column + 8 * r + 1][row] = widen(own.b[r] >> 16);
    }
  }
  double sums[16][8] = {};
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 16; k++)
      for (int column = 0; column < 8; column++) sums[row][column] += static_cast<double>(a[row][k]) * b[k][column];
  for (int lane = 0; lane < 32; lane++) {
    float* d = static_cast<MultiplyBf16*>(brought[lane])->d;
    for (int i = 0; i < 4; i++) d[i] = static_cast<float>(d[i] + sums[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2]);
  }
}

void copy_async(void* shared, const void* global, bool valid, Place place) {
  Execution& e = execution();
  check_shared("cp.async", shared, 16, place);
  if (valid) {
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0) e.fail(place, "cp.async: the source is no multiple of 16");
    if (!e.copied_from.contains(global, 16)) e.copied_from = allocation_of(global);
    if (e.copied_from.is_pinned || !e.copied_from.contains(global, 16))
      e.fail(place, "cp.async: the source is not inside an allocation on the device");
  }
  if (observer) {
    if (valid) observer->read(e.thread(), global, 16, place);
    observer->written(e.thread(), shared, 16, place);
    observer->awaited(shared, 16);
  }
  std::memset(shared, 0xff, 16);
  e.copies_of_thread().open.push_back({shared, valid ? global : nullptr, place});
}

void commit_copies() {
  Copies& copies = execution().copies_of_thread();
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}

void wait_for_copies(int groups_left) {
  Copies& copies = execution().copies_of_thread();
  while (copies.groups.size() > static_cast<size_t>(groups_left)) {
    arrive(copies.groups.front());
    copies.groups.pop_front();
  }
}

}  // namespace sidetune::emulation
