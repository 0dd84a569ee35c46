// How a worker goes through one head of attention: its tiles and the sizes of its packed operands, which lie in cache at N = 197.
// There, of a head's time, products take 70 % in f32 and half in bf16; exp takes 6 µs of 40 to 60, packing and unpacking the
// rest. That is why f32 comes to about 65 % of the GEMM rate (backward 75 %), and bf16, whose products are twice as fast, to
// about 55 %.
#pragma once

#include <algorithm>
#include <cmath>

#include "../attention.h"
#include "parallel.h"
#include "product.h"

namespace sidetune::cpu {

struct AttentionPlan {
  static constexpr int64_t kTile = 72;

  int64_t images, tokens, heads, width;  // B N H E
  float scale;
  // Queries whose scores against all keys are held at a time, at most kTile, so that tiles are about equal: 3 of 66 for N = 197.
  int64_t tile;
  // Tokens with padding as rows and as columns of a product; distances in words between rows of scores and of channels.
  int64_t padded_tokens, score_row, channel_row;

  AttentionPlan(const Tensor& qkv, int64_t head_count, float scale_option)
      : images(qkv.dim(0)), tokens(qkv.dim(1)), heads(head_count), width(qkv.dim(2) / (3 * head_count)) {
    const int64_t tiles = (tokens + kTile - 1) / kTile;
    scale = scale_option != 0 ? scale_option : 1.0f / std::sqrt(static_cast<float>(width));
    tile = round_up((tokens + tiles - 1) / tiles, kPadRows);
    padded_tokens = std::max(round_up(tokens, kPadRows), round_up(tokens, kPadColumns));
    score_row = row_distance(padded_tokens);
    channel_row = row_distance(width);
  }

  // Words of [tokens, E], of its transpose, and of a tile's rows of channels and of scores.
  int64_t rows_size() const { return padded_tokens * channel_row; }
  int64_t columns_size() const { return round_up(width, 4) * score_row; }
  int64_t tile_size() const { return tile * channel_row; }
  int64_t scores_size() const { return tile * score_row; }

  int64_t workers(const Cpu& cpu) const { return std::min<int64_t>(cpu.threads, images * heads); }
  // Scratch memory of a worker that takes so many of each.
  int64_t bytes(int64_t rows, int64_t columns, int64_t tiles, int64_t scores) const {
    return rows * Workspace::aligned<float>(rows_size()) + columns * Workspace::aligned<float>(columns_size()) +
           tiles * Workspace::aligned<float>(tile_size()) + scores * Workspace::aligned<float>(scores_size());
  }
  int64_t forward_bytes() const { return bytes(1, 1, 2, 1); }
  int64_t backward_bytes() const { return bytes(3, 2, 5, 2); }
};

}  // namespace sidetune::cpu
