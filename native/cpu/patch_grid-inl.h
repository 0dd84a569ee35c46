// Depthwise convolution over a grid of patches whose channels are innermost. The numbers that go in are computed by a `source`
// and the results taken by a `sink`, so that what surrounds the convolution costs no pass over memory of its own. Include inside
// foreach_target files only, after math-inl.h.
//
//   Source: template <int kCount> void read(Place first, size_t left, V (&values)[kCount]) const, kCount = 1 and kAtOnce
//   Sink: void operator()(Place place, size_t left, V result) const
//   both: void prefetch(int64_t number, int64_t count) const
//
// A source is asked for each number once, for kCount tokens from `first` on at a time; those that read memory do it best token by
// token. `left` says how many of a vector's numbers exist if that is less than all.
//
// Work is divided into (image, block of channels). The block's grid rows pass through a ring of `side` rows in cache,
// [vector][row][column][lane], with zeros left and right: the inner loops run along columns with unit stride and know no edges.
// Each number is read and written in memory once, in pieces of a block's width, which hardware does not foresee: what the next
// row needs is prefetched by hand (1.5 to 2 times as fast at K = 3).
#if defined(SIDETUNE_CPU_PATCH_GRID_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SIDETUNE_CPU_PATCH_GRID_INL_H
#undef SIDETUNE_CPU_PATCH_GRID_INL_H
#else
#define SIDETUNE_CPU_PATCH_GRID_INL_H
#endif

#include <omp.h>

#include <cstring>
#include <type_traits>

#include "hwy/cache_control.h"
#include "math-inl.h"
#include "patch_grid.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

template <class T>
HWY_INLINE V load_upto(const T* p, size_t left) {
  return left >= lanes() ? load(p) : load_tail(p, left);
}
template <class T>
HWY_INLINE void store_upto(V v, T* p, size_t left) {
  left >= lanes() ? store(v, p) : store_tail(v, p, left);
}

template <class T>
HWY_INLINE void prefetch(const T* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(T)) hwy::Prefetch(p + i);
}

// Where a vector stands: its token, counted over all images, its first channel, and what `number` that is from the tensor's
// start; `step` numbers on stands the next token.
struct Place {
  int64_t token, channel, number, step;
  HWY_INLINE Place(const PatchGrid& g, int64_t token, int64_t channel)
      : token(token), channel(channel), number(token * g.channels + channel), step(g.channels) {}
};

// The source that reads a tensor.
template <class T>
struct Numbers {
  static constexpr int kAtOnce = 1;
  const T* data;
  template <int kCount>
  HWY_INLINE void read(Place first, size_t left, V (&values)[kCount]) const {
    for (int p = 0; p < kCount; p++) values[p] = load_upto(data + first.number + p * first.step, left);
  }
  HWY_INLINE void prefetch(int64_t number, int64_t count) const { HWY_NAMESPACE::prefetch(data + number, count); }
};

// One piece of work: channels [first, first + count) of an image.
struct ChannelBlock {
  int64_t image, first, count;
  int64_t vectors() const { return (count + static_cast<int64_t>(lanes()) - 1) / static_cast<int64_t>(lanes()); }
};

// The last `side` grid rows of one block. Column x stands at `margin` + x.
struct Ring {
  float* data;
  int64_t side, columns, margin;
  int64_t filled = 0;

  int64_t slot_size() const { return columns * static_cast<int64_t>(lanes()); }
  // Row `slot` of a vector's part.
  float* at(int64_t vector, int64_t slot) const { return data + (vector * side + slot) * slot_size(); }

  void start(int64_t vectors) {
    filled = 0;
    memset(data, 0, vectors * side * slot_size() * sizeof(float));
  }
  // Computes rows up to `row_count` and calls upcoming(number) at each patch: the sink's turn will come there.
  template <class Source, class Upcoming>
  void fill_to(int64_t row_count, const PatchGrid& g, const ChannelBlock& block, const Source& source, const Upcoming& upcoming) {
    for (row_count = std::min(row_count, g.rows); filled < row_count; filled++) {
      const int64_t first_token = block.image * g.tokens() + g.prefix + filled * g.columns;
      const auto fill = [&](auto count, int64_t x) HWY_ATTR {
        for (int64_t p = x; p < x + count; p++) {
          const int64_t number = (first_token + p) * g.channels + block.first;
          if (filled + 1 < g.rows) source.prefetch(number + g.columns * g.channels, block.count);
          upcoming(number);
        }
        fill_columns<count()>(g, block, source, first_token, x);
      };
      int64_t x = 0;
      for (; x + Source::kAtOnce <= g.columns; x += Source::kAtOnce) fill(std::integral_constant<int, Source::kAtOnce>(), x);
      for (; x < g.columns; x++) fill(std::integral_constant<int, 1>(), x);
    }
  }
  // kCount columns from x on of the row that is being filled.
  template <int kCount, class Source>
  HWY_INLINE void fill_columns(const PatchGrid& g, const ChannelBlock& block, const Source& source, int64_t first_token,
                               int64_t x) {
    for (int64_t v = 0; v < block.vectors(); v++) {
      const int64_t channel = v * lanes();
      V values[kCount];
      source.template read<kCount>(Place(g, first_token + x, block.first + channel), block.count - channel, values);
      float* to = at(v, filled % side) + (margin + x) * lanes();
      HWY_UNROLL(8)
      for (int p = 0; p < kCount; p++) store(values[p], to + p * lanes());
    }
  }
};

// The taps [begin, end) of a kernel's column that fall on the grid when it stands on row y, and the ring's slot of the first.
struct RowTaps {
  int64_t begin, end, slot;
  RowTaps(const PatchGrid& g, int64_t before, int64_t y)
      : begin(std::max<int64_t>(0, before - y)),
        end(std::min(g.side, g.rows + before - y)),
        slot((y + begin - before) % g.side) {}
};

// kColumns places of a row of the convolution, from column x on, of one vector. kSide is the kernel's side, or 0 for one that is
// known at run time only.
template <int kSide, int kColumns, class Sink>
HWY_INLINE void convolve_columns(const PatchGrid& g, const Ring& ring, const RowTaps& taps, const float* HWY_RESTRICT kernel,
                                 int64_t v, int64_t x, int64_t token, int64_t channel, size_t left, const Sink& sink) {
  const int64_t side = kSide ? kSide : g.side, step = lanes();
  V sums[kColumns];
  HWY_UNROLL(8)
  for (int p = 0; p < kColumns; p++) sums[p] = hn::Zero(F());
  for (int64_t i = taps.begin, slot = taps.slot; i < taps.end; i++, slot = slot + 1 == side ? 0 : slot + 1) {
    const float* HWY_RESTRICT in = ring.at(v, slot) + x * step;
    HWY_UNROLL(5)
    for (int64_t j = 0; j < side; j++) {
      const V w = load(kernel + (i * side + j) * step);
      HWY_UNROLL(8)
      for (int p = 0; p < kColumns; p++) sums[p] = hn::MulAdd(w, load(in + (p + j) * step), sums[p]);
    }
  }
  HWY_UNROLL(8)
  for (int p = 0; p < kColumns; p++) sink(Place(g, token + p, channel), left, sums[p]);
}

// Row y of the convolution of a ring.
template <int kSide, class Sink>
HWY_INLINE void convolve_row(const PatchGrid& g, const ChannelBlock& block, const Ring& ring, const float* weight, int64_t y,
                             const Sink& sink) {
  const RowTaps taps(g, ring.margin, y);
  const int64_t first_token = block.image * g.tokens() + g.prefix + y * g.columns;
  for (int64_t v = 0; v < block.vectors(); v++) {
    const int64_t channel = block.first + v * lanes(), left = block.first + block.count - channel;
    const float* kernel = weight + channel * g.taps();
    int64_t x = 0;
    for (; x + PatchGrid::kColumns <= g.columns; x += PatchGrid::kColumns)
      convolve_columns<kSide, PatchGrid::kColumns>(g, ring, taps, kernel, v, x, first_token + x, channel, left, sink);
    for (; x < g.columns; x++) convolve_columns<kSide, 1>(g, ring, taps, kernel, v, x, first_token + x, channel, left, sink);
  }
}

// Adds row y's part to the gradient of the kernel: Σ_x gradient[y, x] value[y + i − before, x + j − before].
template <int kSide>
HWY_INLINE void add_weight_gradient_row(const PatchGrid& g, const ChannelBlock& block, const Ring& gradients, const Ring& values,
                                        int64_t y, float* sums) {
  const int64_t side = kSide ? kSide : g.side, step = lanes();
  const RowTaps taps(g, values.margin, y);
  for (int64_t v = 0; v < block.vectors(); v++) {
    const float* HWY_RESTRICT gradient = gradients.at(v, y % side) + gradients.margin * step;
    float* HWY_RESTRICT total = sums + (block.first + v * step) * g.taps();
    for (int64_t i = taps.begin, slot = taps.slot; i < taps.end; i++, slot = slot + 1 == side ? 0 : slot + 1) {
      const float* HWY_RESTRICT in = values.at(v, slot);
      constexpr int64_t kTaps = kSide ? kSide : 1;  // of the kernel's row at a time
      for (int64_t j = 0; j < side; j += kTaps) {
        V t[kTaps];
        for (int64_t q = 0; q < kTaps; q++) t[q] = load(total + (i * side + j + q) * step);
        for (int64_t x = 0; x < g.columns; x++) {
          const V gx = load(gradient + x * step);
          for (int64_t q = 0; q < kTaps; q++) t[q] = hn::MulAdd(gx, load(in + (x + j + q) * step), t[q]);
        }
        for (int64_t q = 0; q < kTaps; q++) store(t[q], total + (i * side + j + q) * step);
      }
    }
  }
}

// weight [channels, side·side] as [vector][tap][lane]; `flipped` for the transposed convolution.
inline void pack_weight(const PatchGrid& g, const float* weight, bool flipped, float* packed) {
  const int64_t step = lanes(), taps = g.taps();
  for (int64_t c = 0; c < g.padded_channels(); c++) {
    for (int64_t t = 0; t < taps; t++) {
      packed[(c / step * taps + t) * step + c % step] = c < g.channels ? weight[c * taps + (flipped ? taps - 1 - t : t)] : 0.0f;
    }
  }
}

// Calls body(item, slot); no two calls that run at the same time have the same slot. Each thread takes a stretch of its own:
// blocks side by side have lines of memory side by side, and hardware that fetches lines in pairs would take them from the other
// thread.
template <class Body>
void parallel_slots(const Cpu& cpu, int64_t items, int64_t slots, const Body& body) {
  const int64_t threads = std::min<int64_t>({cpu.team, items, slots});
  if (threads <= 1) {
    for (int64_t item = 0; item < items; item++) body(item, 0);
    return;
  }
#pragma omp parallel for num_threads(static_cast <int>(threads)) schedule(static)
  for (int64_t item = 0; item < items; item++) body(item, omp_get_thread_num());
}

template <class Body>
void with_side(int64_t side, const Body& body) {
  switch (side) {
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
      return body(std::integral_constant<int, 5>());
    default:
      return body(std::integral_constant<int, 0>());
  }
}

inline ChannelBlock block_of(const PatchGrid& g, int64_t image, int64_t block) {
  return {image, block * PatchGrid::kBlock, std::min(PatchGrid::kBlock, g.channels - block * PatchGrid::kBlock)};
}

// The prefix tokens' numbers go from source to sink as they are.
template <class Source, class Sink>
void pass_prefix(const PatchGrid& g, const ChannelBlock& block, const Source& source, const Sink& sink) {
  for (int64_t token = 0; token < g.prefix; token++) {
    for (int64_t c = 0; c < block.count; c += lanes()) {
      const Place place(g, block.image * g.tokens() + token, block.first + c);
      V value[1];
      source.template read<1>(place, block.count - c, value);
      sink(place, block.count - c, value[0]);
    }
  }
}

// sink(convolution of source).
template <class Source, class Sink>
void convolve(const Cpu& cpu, const PatchGrid& g, const float* weight, Workspace scratch, const Source& source,
              const Sink& sink) {
  float* packed = scratch.take<float>(g.weight_size());
  float* rings = scratch.take<float>(g.slots() * g.ring_size());
  pack_weight(g, weight, false, packed);
  with_side(g.side, [&](auto side) {
    parallel_slots(cpu, g.images * g.blocks(), g.slots(), [&](int64_t item, int64_t slot) {
      const ChannelBlock block = block_of(g, item / g.blocks(), item % g.blocks());
      Ring ring{rings + slot * g.ring_size(), g.side, g.ring_columns(), g.before()};
      ring.start(block.vectors());
      pass_prefix(g, block, source, sink);
      for (int64_t y = 0; y < g.rows; y++) {
        ring.fill_to(y - g.before() + g.side, g, block, source, [&](int64_t number) { sink.prefetch(number, block.count); });
        convolve_row<decltype(side)::value>(g, block, ring, packed, y, sink);
      }
    });
  });
}

// sink(transposed convolution of gradient) if wants_input; grad_weight += gradient ⋆ value if that is not null, else `value` is
// not read.
template <class Value, class Gradient, class Sink>
void convolve_backward(const Cpu& cpu, const PatchGrid& g, const float* weight, Workspace scratch, const Value& value,
                       const Gradient& gradient, bool wants_input, const Sink& sink, float* grad_weight) {
  const int64_t groups = grad_weight ? g.groups() : g.images;
  float* packed = wants_input ? scratch.take<float>(g.weight_size()) : nullptr;
  float* gradient_rings = scratch.take<float>(g.slots() * g.ring_size());
  float* value_rings = grad_weight ? scratch.take<float>(g.slots() * g.ring_size()) : nullptr;
  float* sums = grad_weight ? scratch.take<float>(g.groups() * g.weight_size()) : nullptr;
  if (packed) pack_weight(g, weight, true, packed);
  if (sums) memset(sums, 0, groups * g.weight_size() * sizeof(float));
  with_side(g.side, [&](auto side) {
    constexpr int kSide = decltype(side)::value;
    parallel_slots(cpu, groups * g.blocks(), g.slots(), [&](int64_t item, int64_t slot) {
      const int64_t group = item / g.blocks(), after = g.side - 1 - g.before();
      Ring gradients{gradient_rings + slot * g.ring_size(), g.side, g.ring_columns(), after};
      Ring values{value_rings + (value_rings ? slot * g.ring_size() : 0), g.side, g.ring_columns(), g.before()};
      for (int64_t image = group * g.images / groups; image < (group + 1) * g.images / groups; image++) {
        const ChannelBlock block = block_of(g, image, item % g.blocks());
        gradients.start(block.vectors());
        if (sums) values.start(block.vectors());
        if (wants_input) pass_prefix(g, block, gradient, sink);
        for (int64_t y = 0; y < g.rows; y++) {
          gradients.fill_to(y - after + g.side, g, block, gradient, [&](int64_t number) {
            if (wants_input) sink.prefetch(number, block.count);
          });
          if (sums) {
            values.fill_to(y - g.before() + g.side, g, block, value, [](int64_t) {});
            add_weight_gradient_row<kSide>(g, block, gradients, values, y, sums + group * g.weight_size());
          }
          if (wants_input) convolve_row<kSide>(g, block, gradients, packed, y, sink);
        }
      }
    });
  });
  if (!sums) return;
  const int64_t step = lanes(), taps = g.taps();
  for (int64_t group = 0; group < groups; group++) {
    for (int64_t c = 0; c < g.channels; c++) {
      for (int64_t t = 0; t < taps; t++)
        grad_weight[c * taps + t] += sums[group * g.weight_size() + (c / step * taps + t) * step + c % step];
    }
  }
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
