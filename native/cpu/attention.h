// How a thread works through one head of attention: sizes of its tile and of its packed operands, all f32 and all in cache at the usual sizes.
#pragma once

#include <cmath>

#include "../attention.h"
#include "parallel.h"
#include "product.h"

namespace sidetune::cpu {

struct AttentionPlan {
  static constexpr int64_t kTile = 72;

  int64_t images, tokens, heads, width;  // B N H E
  float scale;
  // Scores are held for this many queries at a time, against all keys (66 rows of 197 scores are 55 KB), at most kTile, rounded so that tiles are about equal.
  int64_t tile;
  // Tokens with room for padding as rows and as columns of a product; distances between rows of scores and rows of channels.
  int64_t padded_tokens, score_row, channel_row;

  AttentionPlan(const Tensor& qkv, int64_t head_count, float scale_option)
      : images(qkv.dim(0)), tokens(qkv.dim(1)), heads(head_count), width(qkv.dim(2) / (3 * head_count)) {
    const int64_t tiles = std::max<int64_t>(1, (tokens + kTile - 1) / kTile);
    scale = scale_option != 0 ? scale_option : 1.0f / std::sqrt(static_cast<float>(width));
    tile = round_up((tokens + tiles - 1) / tiles, kPadRows);
    padded_tokens = std::max(round_up(tokens, kPadRows), round_up(tokens, kPadColumns));
    score_row = row_distance(padded_tokens);
    channel_row = row_distance(width);
  }

  // Numbers in [tokens, E], in its transpose, and in the tile's rows of channels and of scores.
  int64_t rows_size() const { return padded_tokens * channel_row; }
  int64_t columns_size() const { return round_up(width, 4) * score_row; }
  int64_t tile_size() const { return tile * channel_row; }
  int64_t scores_size() const { return tile * score_row; }

  int64_t workers(const Cpu& cpu) const { return std::min<int64_t>(cpu.threads, images * heads); }
  int64_t forward_bytes() const {
    return Workspace::aligned<float>(columns_size()) + Workspace::aligned<float>(rows_size()) + 2 * Workspace::aligned<float>(tile_size()) +
           Workspace::aligned<float>(scores_size());
  }
  int64_t backward_bytes() const {
    return 2 * Workspace::aligned<float>(columns_size()) + 3 * Workspace::aligned<float>(rows_size()) +
           3 * Workspace::aligned<float>(tile_size()) + 2 * Workspace::aligned<float>(scores_size());
  }
};

}  // namespace sidetune::cpu
