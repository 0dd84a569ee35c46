#include "patch_grid.cuh"

namespace sidetune::cuda {
namespace {

// What a tile of so many rows and columns takes.
struct TileMemory {
  const PatchGrid& grid;
  int windows;
  int64_t sums;

  int64_t width(int64_t columns) const { return round_up(columns, kPatchColumns) + round_up(grid.side, kPatchColumns) - 1; }
  int64_t window(int64_t slice, int64_t rows, int64_t columns) const {
    return shared_bytes<float>(std::min(rows + grid.side - 1, grid.rows) * width(columns) * slice);
  }
  int64_t bytes(int64_t slice, int64_t rows, int64_t columns) const {
    return shared_bytes<float>(grid.taps() * slice) + (sums ? shared_bytes<float>(sums * slice) : 0) +
           windows * window(slice, rows, columns);
  }
  // The most rows of a tile that fit; may be less than one.
  int64_t rows_within(int64_t most, int64_t slice, int64_t columns) const {
    if (bytes(slice, grid.rows, columns) <= most) return grid.rows;
    const int64_t fixed = bytes(slice, 1 - grid.side, columns) + windows * 16, row = windows * width(columns) * slice * 4;
    return (most - fixed) / row - (grid.side - 1);
  }
  Tiling tiling(int64_t slice, int64_t rows, int64_t columns) const {
    Tiling t;
    t.slice = static_cast<int>(slice);
    t.down = static_cast<int>(divide_up(grid.rows, rows)), t.across = static_cast<int>(divide_up(grid.columns, columns));
    t.rows = static_cast<int>(divide_up(grid.rows, t.down)), t.columns = static_cast<int>(divide_up(grid.columns, t.across));
    t.width = static_cast<int>(width(t.columns));
    t.shared_bytes = bytes(slice, t.rows, t.columns);
    return t;
  }
};

}  // namespace

Tiling tiling(const Properties& properties, const PatchGrid& grid, int vector, int windows, int64_t sums) {
  const TileMemory memory{grid, windows, sums};
  const int64_t most = properties.most_shared_bytes;
  // The whole grid; twice on a multiprocessor if possible, so that one block computes while the other loads. Eight channels of
  // f32 are a sector of memory.
  for (int64_t limit : {most / 2, most}) {
    for (int64_t slice = 32; slice >= 8; slice /= 2) {
      if (memory.bytes(slice, grid.rows, grid.columns) <= limit) return memory.tiling(slice, grid.rows, grid.columns);
    }
  }
  // Bands of whole rows, not much lower than what they see around them; then whatever fits.
  for (int64_t slice = 16; slice >= vector; slice /= 2) {
    const int64_t rows = memory.rows_within(most, slice, grid.columns);
    if (rows >= std::min(2 * grid.side, grid.rows)) return memory.tiling(slice, rows, grid.columns);
  }
  for (int64_t slice = 16; slice >= vector; slice /= 2) {
    for (int64_t columns = grid.columns;; columns = divide_up(columns, 2)) {
      const int64_t rows = memory.rows_within(most, slice, columns);
      if (rows >= 1) return memory.tiling(slice, rows, columns);
      if (columns == 1) break;
    }
  }
  return {};
}

}  // namespace sidetune::cuda
