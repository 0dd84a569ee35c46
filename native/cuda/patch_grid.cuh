// Depthwise convolution over a grid of patches whose channels are innermost. The numbers that go in come from a source and the
// results go to a sink, so that what surrounds the convolution costs no pass over memory of its own.
//
//   Source: template <int V> __device__ Numbers<V> at(const Place&) const
//   Sink: template <int V> __device__ void put(const Place&, const Numbers<V>& result) const
//
// In the backward pass that also sums the gradient of the kernel, a value is kept as it was read until the sink has seen it, and
// becomes the convolution's input only then:
//
//   Value: a source with template <int V> __device__ Numbers<V> raw(const Place&) const, which at() turns into
//          Numbers<V> input(Numbers<V> raw) const, the same number where kIsRaw; input(0) is 0
//   Sink: and put(const Place&, const Numbers<V>& result, const Numbers<V>& raw) const
#pragma once

#include "launch.cuh"
#include "reduce.cuh"
#include "shared.cuh"
#include "vector.cuh"

namespace sidetune::cuda {

// Where a vector stands: its token, counted over all images, its first channel, and what number that is from the tensor's start.
struct Place {
  int64_t token, channel, number;
};

// Tokens [images, prefix + rows·columns, channels]; kernels [channels, 1, side, side].
struct PatchGrid {
  int64_t images, prefix, rows, columns, channels, side;

  __host__ __device__ int64_t tokens() const { return prefix + rows * columns; }
  __host__ __device__ int64_t taps() const { return side * side; }
  __host__ __device__ int64_t before() const { return (side - 1) / 2; }
  __host__ __device__ int64_t after() const { return side - 1 - before(); }
  __device__ Place place_of(int64_t token, int64_t channel) const { return {token, channel, token * channels + channel}; }
  __device__ Place place(int64_t image, int64_t y, int64_t x, int64_t channel) const {
    return place_of(image * tokens() + prefix + y * columns + x, channel);
  }
};

constexpr int kPatchThreads = 256;
constexpr int kPatchColumns = 4;  // that a thread computes at a time: each load serves several of them

// Sums of the kernel's gradient are divided among threads by taps and, where those are few, by rows of the grid: into `parts`.
struct TapBlocks {
  int taps, per_row, parts;  // taps of a block, blocks of a row of the kernel, parts of the grid's rows
  __host__ __device__ TapBlocks(int64_t side, int taps)
      : taps(taps), per_row(static_cast<int>((side + taps - 1) / taps)), parts(1) {
    constexpr int64_t kUnits = 48;
    const int64_t blocks = side * per_row;
    if (blocks < kUnits) parts = static_cast<int>(kUnits / blocks);
  }
};
// Taps of the kernel's row that a thread sums at a time.
template <int kSide>
constexpr int kTapBlock = kSide ? kSide : 4;

// How a grid is cut up: a block owns a tile of the patches of an image in a slice of the channels, and keeps the tile and what
// the kernel sees around it in shared memory. A tile is the whole grid wherever that fits, so that no patch is read twice; narrow
// slices come before small tiles. Only where a grid does not fit do the last bits of gradWeight depend on how much shared
// memory the device has: tiles are summed one after another.
struct Tiling {
  int slice = 0;  // channels; 0: not even one patch's surroundings fit
  int rows = 0, columns = 0, down = 0, across = 0;
  int width = 0;  // columns that are kept
  int64_t shared_bytes = 0;

  __host__ __device__ int64_t count() const { return static_cast<int64_t>(down) * across; }
  __host__ __device__ int64_t slices(const PatchGrid& g) const { return (g.channels + slice - 1) / slice; }
  __device__ int64_t window_size(const PatchGrid& g) const {
    return (g.rows < rows + g.side - 1 ? g.rows : rows + g.side - 1) * width * slice;
  }
};
// vector: channels of a thread. windows: how many numbers of a patch are kept. sums: floats per channel beside the taps.
Tiling tiling(const Properties& properties, const PatchGrid& grid, int vector, int windows, int64_t sums);

// The tile that a block works on, in coordinates of the grid.
struct Tile {
  int64_t image;
  int y, x, end_y, end_x;
  __device__ Tile(const PatchGrid& g, const Tiling& t, int64_t image, int64_t index) : image(image) {
    y = static_cast<int>(index / t.across) * t.rows, x = static_cast<int>(index % t.across) * t.columns;
    end_y = y + t.rows < g.rows ? y + t.rows : static_cast<int>(g.rows);
    end_x = x + t.columns < g.columns ? x + t.columns : static_cast<int>(g.columns);
  }
};

// Threads that stand on the same patch form a team; each has a vector of the slice's channels.
struct Team {
  int index, count, channel, slice;
  int64_t first;  // channel of the slice
  bool idle;      // beyond the last channel
  template <int V>
  __device__ static Team of(const PatchGrid& g, const Tiling& t, int64_t slice_index) {
    const int size = t.slice / V, thread = static_cast<int>(threadIdx.x);
    const int64_t first = slice_index * t.slice;
    const int channel = thread % size * V;
    return {thread / size, kPatchThreads / size, channel, t.slice, first, first + channel >= g.channels};
  }
};

// A tile's patches and those up to `margin` before it, [row][column][channel of the slice]. Rows are those that exist; columns
// beyond the grid's edges are zeros.
struct Window {
  float* data;
  int first_row, end_row, first_column, width, slice;

  __device__ Window(float* data, const PatchGrid& g, const Tiling& t, const Tile& tile, int margin)
      : data(data), first_row(tile.y - margin), first_column(tile.x - margin), width(t.width), slice(t.slice) {
    const int64_t end = tile.end_y + g.side - 1 - margin;
    end_row = static_cast<int>(end < g.rows ? end : g.rows);
    if (first_row < 0) first_row = 0;
  }
  __device__ float* at(int row, int column) const {
    return data + static_cast<int64_t>((row - first_row) * width + column - first_column) * slice;
  }
  template <int V, class Read>
  __device__ void fill(const PatchGrid& g, const Tile& tile, const Team& team, const Read& read) const {
    const int places = (end_row - first_row) * width;
#pragma unroll 4
    for (int place = team.index; place < places; place += team.count) {
      const int64_t row = first_row + place / width, column = first_column + place % width;
      Numbers<V> numbers = {};
      if (column >= 0 && column < g.columns) numbers = read(g.place(tile.image, row, column, team.first + team.channel));
      store(data + static_cast<int64_t>(place) * slice + team.channel, numbers);
    }
  }
};

// The kernels of a slice's channels as [tap][channel].
__device__ inline void take_taps(const PatchGrid& g, const Tiling& t, int64_t slice_index, const float* weight, bool flipped,
                                 float* taps) {
  const int64_t first = slice_index * t.slice, left = g.channels - first;
  const int count = static_cast<int>(g.taps()), channels = left < t.slice ? static_cast<int>(left) : t.slice;
  for (int i = static_cast<int>(threadIdx.x); i < channels * count; i += kPatchThreads) {
    const int channel = i / count, tap = i % count;
    taps[(flipped ? count - 1 - tap : tap) * t.slice + channel] = weight[first * count + i];
  }
}

template <int V>
__device__ inline void add_product(Numbers<V>& sum, const Numbers<V>& a, const Numbers<V>& b) {
#pragma unroll
  for (int i = 0; i < V; i++) sum[i] = fmaf(a[i], b[i], sum[i]);
}

// put(y, x, result) for the team's share of a tile. kSide is the kernel's side, or 0 for one that is known at run time only.
template <int V, int kSide, class Put>
__device__ void convolve_tile(const PatchGrid& g, const Tile& tile, const Team& team, const Window& window, const float* taps,
                              int margin, const Put& put) {
  const int side = kSide ? kSide : static_cast<int>(g.side), slice = team.slice, rows = static_cast<int>(g.rows);
  const int blocks = (tile.end_x - tile.x + kPatchColumns - 1) / kPatchColumns, units = (tile.end_y - tile.y) * blocks;
  for (int unit = team.index; unit < units; unit += team.count) {
    const int y = tile.y + unit / blocks, x = tile.x + unit % blocks * kPatchColumns;
    Numbers<V> sums[kPatchColumns] = {};
    const int begin = margin > y ? margin - y : 0, end = side < rows + margin - y ? side : rows + margin - y;
    for (int i = begin; i < end; i++) {
      const float* in = window.at(y + i - margin, x - margin) + team.channel;
      const float* tap = taps + i * side * slice + team.channel;
      Numbers<V> seen[kPatchColumns];
#pragma unroll
      for (int p = 1; p < kPatchColumns; p++) seen[p] = load<V>(in + (p - 1) * slice);
#pragma unroll(kSide ? kSide : 4)
      for (int j = 0; j < side; j++) {
#pragma unroll
        for (int p = 1; p < kPatchColumns; p++) seen[p - 1] = seen[p];
        seen[kPatchColumns - 1] = load<V>(in + (j + kPatchColumns - 1) * slice);
        const Numbers<V> w = load<V>(tap + j * slice);
#pragma unroll
        for (int p = 0; p < kPatchColumns; p++) add_product(sums[p], w, seen[p]);
      }
    }
#pragma unroll
    for (int p = 0; p < kPatchColumns; p++) {
      if (x + p < tile.end_x) put(y, x + p, sums[p]);
    }
  }
}

// Adds a tile's part to the gradient of the kernel, sums [part][tap][channel]: Σ_{y, x} gradient[y, x] value[y + i − before,
// x + j − before]. The same thread adds to a sum for every tile.
template <int V, int kSide>
__device__ void add_weight_gradient(const PatchGrid& g, const Tile& tile, const Team& team, const Window& values,
                                    const Window& gradients, float* sums) {
  constexpr int kTaps = kTapBlock<kSide>;
  const TapBlocks blocks(g.side, kTaps);
  const int side = kSide ? kSide : static_cast<int>(g.side), slice = team.slice, before = static_cast<int>(g.before());
  const int units = side * blocks.per_row * blocks.parts;
  for (int unit = team.index; unit < units; unit += team.count) {
    const int part = unit % blocks.parts, block = unit / blocks.parts;
    const int i = block / blocks.per_row, first = block % blocks.per_row * kTaps;
    Numbers<V> totals[kTaps] = {};
    for (int y = tile.y + part; y < tile.end_y; y += blocks.parts) {
      if (y + i < before || y + i - before >= static_cast<int>(g.rows)) continue;
      const float* value = values.at(y + i - before, tile.x + first - before) + team.channel;
      const float* gradient = gradients.at(y, tile.x) + team.channel;
      Numbers<V> seen[kTaps];
#pragma unroll
      for (int q = 1; q < kTaps; q++) seen[q] = load<V>(value + (q - 1) * slice);
#pragma unroll 4
      for (int x = 0; x < tile.end_x - tile.x; x++) {
#pragma unroll
        for (int q = 1; q < kTaps; q++) seen[q - 1] = seen[q];
        seen[kTaps - 1] = load<V>(value + (x + kTaps - 1) * slice);
        const Numbers<V> at_x = load<V>(gradient + x * slice);
#pragma unroll
        for (int q = 0; q < kTaps; q++) add_product(totals[q], at_x, seen[q]);
      }
    }
#pragma unroll
    for (int q = 0; q < kTaps; q++) {
      if (first + q >= side) continue;
      float* sum = sums + (part * side * side + i * side + first + q) * slice + team.channel;
      Numbers<V> total = load<V>(sum);
#pragma unroll
      for (int n = 0; n < V; n++) total[n] += totals[q][n];
      store(sum, total);
    }
  }
}

// The prefix tokens' numbers go from source to sink as they are.
template <int V, class Source, class Sink>
__device__ void pass_prefix(const PatchGrid& g, int64_t image, const Team& team, const Source& source, const Sink& sink) {
  for (int64_t token = team.index; token < g.prefix; token += team.count) {
    const Place place = g.place_of(image * g.tokens() + token, team.first + team.channel);
    sink.put(place, source.template at<V>(place));
  }
}

// sink(convolution of source), or of its transpose if flipped. A block owns tiles of images in slices of the channels: it
// computes the source once for each number of the tile, and a thread then four results of neighbouring columns at a time.
template <int V, int kSide, class Source, class Sink>
__global__ void __launch_bounds__(kPatchThreads, 2)
    convolve_kernel(const PatchGrid g, const Tiling t, const float* weight, bool flipped, const Source source, const Sink sink) {
  SharedMemory shared;
  float* taps = shared.take<float>(g.taps() * t.slice);
  float* data = shared.take<float>(t.window_size(g));
  const int64_t slices = t.slices(g), tiles = t.count(), items = g.images * tiles * slices;
  const int margin = static_cast<int>(flipped ? g.after() : g.before());
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t slice = item % slices, index = item / slices % tiles, image = item / slices / tiles;
    const Tile tile(g, t, image, index);
    const Team team = Team::of<V>(g, t, slice);
    const Window window(data, g, t, tile, margin);
    take_taps(g, t, slice, weight, flipped, taps);
    if (!team.idle) window.fill<V>(g, tile, team, [&](const Place& place) { return source.template at<V>(place); });
    __syncthreads();
    if (!team.idle) {
      if (index == 0) pass_prefix<V>(g, image, team, source, sink);
      convolve_tile<V, kSide>(g, tile, team, window, taps, margin, [&](int y, int x, const Numbers<V>& result) {
        sink.put(g.place(image, y, x, team.first + team.channel), result);
      });
    }
    __syncthreads();  // before the next tile
  }
}

// The whole backward pass: sink(transposed convolution of gradient) if wants_input, and a group of images' sums of gradient ⋆
// value for the kernel, [group][channel][tap]. A block owns a group in a slice of the channels and walks through its tiles.
template <int V, int kSide, class Value, class Gradient, class Sink>
__global__ void __launch_bounds__(kPatchThreads, 2)
    convolve_backward_kernel(const PatchGrid g, const Tiling t, const float* weight, const Value value, const Gradient gradient,
                             bool wants_input, const Sink sink, float* group_sums, int64_t groups) {
  const TapBlocks blocks(g.side, kTapBlock<kSide>);
  const int count = static_cast<int>(g.taps());
  SharedMemory shared;
  float* taps = shared.take<float>(g.taps() * t.slice);
  float* sums = shared.take<float>(g.taps() * blocks.parts * t.slice);
  float* value_data = shared.take<float>(t.window_size(g));
  float* gradient_data = shared.take<float>(t.window_size(g));
  const int64_t slices = t.slices(g), tiles = t.count();
  const int before = static_cast<int>(g.before()), after = static_cast<int>(g.after());
  for (int64_t item = blockIdx.x; item < groups * slices; item += gridDim.x) {
    const int64_t slice = item % slices, group = item / slices;
    const Team team = Team::of<V>(g, t, slice);
    if (wants_input) take_taps(g, t, slice, weight, true, taps);
    for (int i = static_cast<int>(threadIdx.x); i < count * blocks.parts * t.slice; i += kPatchThreads) sums[i] = 0;
    for (int64_t image = group * g.images / groups; image < (group + 1) * g.images / groups; image++) {
      for (int64_t index = 0; index < tiles; index++) {
        const Tile tile(g, t, image, index);
        const Window values(value_data, g, t, tile, before), gradients(gradient_data, g, t, tile, after);
        if (!team.idle) {
          values.fill<V>(g, tile, team, [&](const Place& place) { return value.template raw<V>(place); });
          gradients.fill<V>(g, tile, team, [&](const Place& place) { return gradient.template at<V>(place); });
        }
        __syncthreads();
        if (wants_input && !team.idle) {
          if (index == 0) pass_prefix<V>(g, image, team, gradient, sink);
          convolve_tile<V, kSide>(g, tile, team, gradients, taps, after, [&](int y, int x, const Numbers<V>& result) {
            sink.put(g.place(image, y, x, team.first + team.channel), result, load<V>(values.at(y, x) + team.channel));
          });
        }
        if constexpr (!Value::kIsRaw) {
          __syncthreads();
          const int places = (values.end_row - values.first_row) * values.width;
          for (int place = team.index; place < places && !team.idle; place += team.count) {
            float* at = values.data + static_cast<int64_t>(place) * t.slice + team.channel;
            store(at, value.input(load<V>(at)));
          }
          __syncthreads();
        }
        if (!team.idle) add_weight_gradient<V, kSide>(g, tile, team, values, gradients, sums);
        __syncthreads();  // before the next tile
      }
    }
    const int64_t first = slice * t.slice, left = g.channels - first;
    const int channels = left < t.slice ? static_cast<int>(left) : t.slice;
    for (int i = static_cast<int>(threadIdx.x); i < channels * count; i += kPatchThreads) {
      const int channel = i / count, tap = i % count;
      float total = 0;
      for (int part = 0; part < blocks.parts; part++) total += sums[(part * count + tap) * t.slice + channel];
      group_sums[(group * g.channels + first) * count + i] = total;
    }
    __syncthreads();  // before the next item
  }
}

// Where kernels are so large that no tile fits, the same from memory: a thread owns a result.
template <class Source, class Sink>
__global__ void convolve_directly_kernel(const PatchGrid g, const float* weight, bool flipped, const Source source,
                                         const Sink sink) {
  const int64_t size = g.images * g.tokens() * g.channels, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t margin = flipped ? g.after() : g.before();
  for (int64_t number = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; number < size; number += step) {
    const int64_t channel = number % g.channels, token = number / g.channels % g.tokens(),
                  image = number / g.channels / g.tokens();
    const Place place = g.place_of(image * g.tokens() + token, channel);
    if (token < g.prefix) {
      sink.put(place, source.template at<1>(place));
      continue;
    }
    const int64_t y = (token - g.prefix) / g.columns, x = (token - g.prefix) % g.columns;
    const float* kernel = weight + channel * g.taps();
    Numbers<1> sum = {};
    for (int64_t i = 0; i < g.side; i++) {
      if (y + i < margin || y + i - margin >= g.rows) continue;
      for (int64_t j = 0; j < g.side; j++) {
        if (x + j < margin || x + j - margin >= g.columns) continue;
        const int64_t tap = i * g.side + j;
        const Numbers<1> seen = source.template at<1>(g.place(image, y + i - margin, x + j - margin, channel));
        sum[0] = fmaf(kernel[flipped ? g.taps() - 1 - tap : tap], seen[0], sum[0]);
      }
    }
    sink.put(place, sum);
  }
}
// A thread owns a tap of a channel, for a group of images.
template <class Value, class Gradient>
__global__ void weight_gradient_directly_kernel(const PatchGrid g, const Value value, const Gradient gradient, float* group_sums,
                                                int64_t groups) {
  const int64_t size = g.channels * g.taps(), step = static_cast<int64_t>(gridDim.x) * blockDim.x, margin = g.before();
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < groups * size; at += step) {
    const int64_t group = at / size, channel = at % size / g.taps(), i = at % g.taps() / g.side, j = at % g.taps() % g.side;
    float sum = 0;
    for (int64_t image = group * g.images / groups; image < (group + 1) * g.images / groups; image++) {
      for (int64_t y = 0; y < g.rows; y++) {
        if (y + i < margin || y + i - margin >= g.rows) continue;
        for (int64_t x = 0; x < g.columns; x++) {
          if (x + j < margin || x + j - margin >= g.columns) continue;
          const Numbers<1> seen = value.template at<1>(g.place(image, y + i - margin, x + j - margin, channel));
          sum = fmaf(gradient.template at<1>(g.place(image, y, x, channel))[0], seen[0], sum);
        }
      }
    }
    group_sums[at] = sum;
  }
}

// Kernels of 3 are the usual ones.
template <class Body>
void dispatch_patches(const PatchGrid& g, const Body& body) {
  dispatch_fours(g.channels, [&](auto width) {
    if constexpr (width.value > 1) {
      if (g.side == 3) return body(width, Width<3>{});
    }
    body(width, Width<0>{});
  });
}

template <class Source, class Sink>
void convolve(Cuda& cuda, const PatchGrid& g, const float* weight, bool flipped, const Source& source, const Sink& sink) {
  dispatch_patches(g, [&](auto width, auto side) {
    const Tiling t = tiling(cuda.properties, g, width.value, 1, 0);
    if (!t.slice) {
      const int64_t size = g.images * g.tokens() * g.channels;
      return launch(cuda, convolve_directly_kernel<Source, Sink>,
                    {blocks_for(cuda.properties, size, kPatchThreads), kPatchThreads}, g, weight, flipped, source, sink);
    }
    const int64_t items = g.images * t.count() * t.slices(g);
    launch(cuda, convolve_kernel<width.value, side.value, Source, Sink>,
           {blocks_for(cuda.properties, items, 1), kPatchThreads, t.shared_bytes}, g, t, weight, flipped, source, sink);
  });
}

// Groups of images, each of which sums the gradient of the kernel on its own.
inline int64_t image_groups(const PatchGrid& g) { return std::min<int64_t>(g.images, 32); }
inline int64_t convolve_backward_workspace(const PatchGrid& g) {
  return Workspace::aligned<float>(image_groups(g) * g.channels * g.taps());
}

// sink(transposed convolution of gradient) if wants_input; grad_weight += gradient ⋆ value if that is not null, else `value` is
// not read.
template <class Value, class Gradient, class Sink>
void convolve_backward(Cuda& cuda, const PatchGrid& g, const float* weight, Workspace scratch, const Value& value,
                       const Gradient& gradient, bool wants_input, const Sink& sink, float* grad_weight) {
  if (!grad_weight) {
    if (wants_input) convolve(cuda, g, weight, true, gradient, sink);
    return;
  }
  const int64_t groups = image_groups(g), size = g.channels * g.taps();
  if (groups == 0) return;
  float* sums = scratch.take<float>(groups * size);
  dispatch_patches(g, [&](auto width, auto side) {
    const TapBlocks blocks(g.side, kTapBlock<side.value>);
    const Tiling t = tiling(cuda.properties, g, width.value, 2, g.taps() * blocks.parts);
    if (!t.slice) {
      if (wants_input) convolve(cuda, g, weight, true, gradient, sink);
      return launch(cuda, weight_gradient_directly_kernel<Value, Gradient>,
                    {blocks_for(cuda.properties, groups * size, kPatchThreads), kPatchThreads}, g, value, gradient, sums, groups);
    }
    launch(cuda, convolve_backward_kernel<width.value, side.value, Value, Gradient, Sink>,
           {blocks_for(cuda.properties, groups * t.slices(g), 1), kPatchThreads, t.shared_bytes}, g, t, weight, value, gradient,
           wants_input, sink, sums, groups);
  });
  add_groups(cuda, sums, groups, size, size, grad_weight);
}

}  // namespace sidetune::cuda
