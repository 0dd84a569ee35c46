// Work over the kernel's team of threads, by OpenMP: one pool of threads per device, owned by its stream thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend.h"

namespace sidetune::cpu {

// Calls body(begin, end) for contiguous shares of [0, count), one share a thread. Results may not depend on the shares: bodies
// work item by item.
template <class Body>
void parallel_ranges(const Cpu& cpu, int64_t count, int64_t grain, const Body& body) {
  const int64_t shares = std::min<int64_t>(cpu.team, (count + grain - 1) / std::max<int64_t>(grain, 1));
  if (shares <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#pragma omp parallel for num_threads(static_cast <int>(shares)) schedule(static)
  for (int64_t share = 0; share < shares; share++) body(count * share / shares, count * (share + 1) / shares);
}

// The most neighbours, up to `most`, that threads can take at a time and come out with the most equal shares.
inline int64_t even_run(int64_t count, int64_t threads, int64_t most) {
  int64_t best = 1, least = count;
  for (int64_t run = 1; run <= most; run++) {
    const int64_t runs = (count + run - 1) / run, largest_share = std::min(count, (runs + threads - 1) / threads * run);
    if (largest_share <= least) best = run, least = largest_share;
  }
  return best;
}

// Calls body(item) for each item; items are handed out one by one, or up to `most` neighbours at a time, for work that is large
// or uneven.
template <class Body>
void parallel_items(const Cpu& cpu, int64_t count, const Body& body, int64_t most = 1) {
  const int64_t run = even_run(count, cpu.team, most);
  const int threads = static_cast<int>(std::min<int64_t>(cpu.team, (count + run - 1) / run));
  if (threads <= 1) {
    for (int64_t item = 0; item < count; item++) body(item);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, run)
  for (int64_t item = 0; item < count; item++) body(item);
}

// Sums over rows that do not depend on the number of threads: rows fall into groups of a fixed size, each group has a partial
// result of its own, and the partials are added in order. Returns the number of groups for `rows` rows; at most kMaxGroups, so
// that partials stay small.
constexpr int64_t kMaxGroups = 64;
inline int64_t group_rows(int64_t rows) { return std::max<int64_t>(16, (rows + kMaxGroups - 1) / kMaxGroups); }
inline int64_t group_count(int64_t rows) { return rows == 0 ? 0 : (rows + group_rows(rows) - 1) / group_rows(rows); }

}  // namespace sidetune::cpu
