// Sums over rows in two stages with a fixed order: blocks write one row of sums for each group of kGroupRows rows, and
// add_groups() adds them up. No float atomics: the bits do not depend on the device or on chance.
#pragma once

#include "backend.cuh"

namespace sidetune::cuda {

// to[c] += Σ_group sums[group, c] for each of `width` columns, group after group; rows of `sums` are `stride` floats apart.
void add_groups(Cuda& cuda, const float* sums, int64_t groups, int64_t stride, int64_t width, float* to);

}  // namespace sidetune::cuda
