// What product-inl.h asks of its operands, for those who size their scratch memory.
#pragma once

#include <cstdint>

namespace sidetune::cpu {

// Whole register blocks are read and written: rows of A and C reach to a multiple of kPadRows, columns of B and C to a multiple
// of kPadColumns.
constexpr int64_t kPadRows = 6, kPadColumns = 16;

constexpr int64_t round_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// Distance between rows of `columns` words: whole cache lines, and never a multiple of 8 lines, which would put a column of
// blocks into few sets of the cache.
constexpr int64_t row_distance(int64_t columns) {
  const int64_t lines = round_up(columns, kPadColumns) / kPadColumns;
  return kPadColumns * (lines % 8 == 0 ? lines + 1 : lines);
}

}  // namespace sidetune::cpu
