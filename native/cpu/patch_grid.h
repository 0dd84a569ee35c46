// How a depthwise convolution over a grid of patches is divided, and what scratch it needs: see patch_grid-inl.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend.h"

namespace sidetune::cpu {

// Tokens [images, prefix + rows·columns, channels], channels innermost; kernels [channels, 1, side, side].
struct PatchGrid {
  int64_t images, prefix, rows, columns, channels, side;

  // Channels of one piece of work: at 64, three rows of 14 patches take 12 KB, which leaves room in an L1 cache for the tensors'
  // own lines.
  static constexpr int64_t kBlock = 64;
  // A multiple of every target's lanes. Scratch is padded to it, so that tails occur in loads and stores of tensors only.
  static constexpr int64_t kPadding = 64;
  // Columns that the convolution computes at a time, their sums in registers: grids of vision transformers are multiples of 7.
  static constexpr int64_t kColumns = 7;
  // Threads that can work at the same time, each with rings of its own. A constant, so that scratch does not depend on the
  // machine.
  static constexpr int64_t kMaxSlots = 32;
  // Groups of images, each of which sums the gradient of the kernel on its own.
  static constexpr int64_t kMaxGroups = 8;

  int64_t tokens() const { return prefix + rows * columns; }
  int64_t taps() const { return side * side; }
  int64_t before() const { return (side - 1) / 2; }
  int64_t padded_channels() const { return (channels + kPadding - 1) / kPadding * kPadding; }
  int64_t blocks() const { return (channels + kBlock - 1) / kBlock; }
  int64_t slots() const { return std::min(kMaxSlots, images * blocks()); }
  int64_t groups() const { return std::min(kMaxGroups, images); }

  int64_t weight_size() const { return padded_channels() * taps(); }
  int64_t ring_columns() const { return columns + side - 1; }
  int64_t ring_size() const { return side * ring_columns() * std::min(kBlock, padded_channels()); }

  int64_t forward_workspace() const {
    return Workspace::aligned<float>(weight_size()) + Workspace::aligned<float>(slots() * ring_size());
  }
  int64_t backward_workspace(bool wants_input, bool wants_weight) const {
    return (wants_input ? Workspace::aligned<float>(weight_size()) : 0) + Workspace::aligned<float>(slots() * ring_size()) +
           (wants_weight ? Workspace::aligned<float>(slots() * ring_size()) + Workspace::aligned<float>(groups() * weight_size())
                         : 0);
  }
};

}  // namespace sidetune::cpu
