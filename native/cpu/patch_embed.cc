#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/patch_embed.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../patch_embed.h"
#include "gemm.h"
#include "parallel.h"

#ifndef SIDETUNE_CPU_PATCH_EMBED
#define SIDETUNE_CPU_PATCH_EMBED
namespace sidetune::cpu {

// The convolution's weight [D, C, P, P] as that of a linear layer, [D, C·P·P].
inline Tensor as_matrix(Tensor weight) {
  weight.shape[1] *= weight.shape[2] * weight.shape[3];
  weight.rank = 2;
  return weight;
}

}  // namespace sidetune::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

// Rounds or copies.
template <class From, class To>
void copy_row(const From* from, int64_t count, To* to) {
  for_each_vector(count, [&](size_t, auto at, auto put) HWY_ATTR { put(at(from), to); });
}

template <class From>
void add_row(const From* from, int64_t count, float* to) {
  for_each_vector(count, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(to), at(from)), to); });
}

// Where the numbers of patches lie in images.
struct Patches {
  int64_t channels, height, width, side, across, per_image;

  Patches(const Tensor& images, int64_t side)
      : channels(images.dim(1)),
        height(images.dim(2)),
        width(images.dim(3)),
        side(side),
        across(width / side),
        per_image(height / side * across) {}

  int64_t size() const { return channels * side * side; }

  // Calls run(offset in the images, place in the patch, count) for each run of neighbouring pixels among places [begin, end) of a
  // patch.
  template <class Run>
  void for_each_run(int64_t patch, int64_t begin, int64_t end, const Run& run) const {
    const int64_t image = patch / per_image, down = patch % per_image / across, right = patch % across;
    for (int64_t place = begin; place < end;) {
      const int64_t x = place % side, y = place / side % side, channel = place / (side * side);
      const int64_t count = std::min(side - x, end - place);
      run(((image * channels + channel) * height + down * side + y) * width + right * side + x, place, count);
      place += count;
    }
  }
};

// patch(b, p) as a row, for rows [row, row + rows).
template <class T>
void unfold(const float* images, const Patches& patches, int64_t row, int64_t rows, T* to) {
  for (int64_t r = 0; r < rows; r++) {
    T* patch = to + r * patches.size();
    patches.for_each_run(row + r, 0, patches.size(),
                         [&](int64_t from, int64_t place, int64_t count) { copy_row(images + from, count, patch + place); });
  }
}
void unfold(const float* images, const Patches& patches, int64_t row, int64_t rows, void* to, DType dtype) {
  dtype == DType::bf16 ? unfold(images, patches, row, rows, static_cast<bf16_t*>(to))
                       : unfold(images, patches, row, rows, static_cast<float*>(to));
}

template <class T>
void forward(Cpu& cpu, const PatchEmbedForward& k, Workspace scratch) {
  const Patches patches(k.images, k.weight.dim(2));
  const int64_t D = k.weight.dim(0);
  const DType dtype = k.out.dtype;
  const float *images = k.images.as<float>(), *bias = k.bias.as<float>();
  const void* panels = weight_panels(cpu, as_matrix(k.weight), Layout::packed, dtype, scratch);
  const auto load = [&](int64_t row, int64_t rows, void* to) { unfold(images, patches, row, rows, to, operand_dtype(dtype)); };
  Left left;
  left.load = load;
  multiply(cpu, {k.out.rows(), D, patches.size(), dtype}, left, panels,
           [&](const void* tile, int64_t row, int64_t rows, int64_t column, int64_t columns) {
             for (int64_t r = 0; r < rows; r++) {
               const float* from = static_cast<const float*>(tile) + r * columns;
               T* to = k.out.as<T>() + (row + r) * D + column;
               for_each_vector(columns, [&](size_t, auto at, auto put)
                                            HWY_ATTR { put(bias ? hn::Add(at(from), at(bias + column)) : at(from), to); });
             }
           });
}

template <class T>
void add_bias_gradient(const Cpu& cpu, const Tensor& grad_out, float* grad_bias, Workspace scratch) {
  const int64_t D = grad_out.dim(2), rows = grad_out.rows(), groups = group_count(rows), per_group = group_rows(rows);
  float* sums = scratch.take<float>(groups * D);
  parallel_items(cpu, groups, [&](int64_t group) {
    float* sum = sums + group * D;
    std::fill_n(sum, D, 0.0f);
    for (int64_t row = group * per_group; row < std::min(rows, (group + 1) * per_group); row++)
      add_row(grad_out.as<T>() + row * D, D, sum);
  });
  for (int64_t group = 0; group < groups; group++) add_row(sums + group * D, D, grad_bias);
}

void patch_embed_forward(Cpu& cpu, const PatchEmbedForward& k, Workspace scratch) {
  k.out.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, scratch) : forward<float>(cpu, k, scratch);
}

void patch_embed_backward(Cpu& cpu, const PatchEmbedBackward& k, Workspace scratch) {
  const Patches patches(k.images, k.weight.dim(2));
  const int64_t D = k.grad_out.dim(2), all = k.grad_out.rows();
  const DType dtype = k.grad_out.dtype;
  if (k.grad_images) {
    Workspace panel_scratch = scratch;
    const void* panels = weight_panels(cpu, as_matrix(k.weight), Layout::packed_transposed, dtype, panel_scratch);
    float* images = k.grad_images.as<float>();
    multiply(cpu, {all, patches.size(), D, dtype}, Left{k.grad_out.data, dtype, false}, panels,
             [&](const void* tile, int64_t row, int64_t rows, int64_t column, int64_t columns) {
               for (int64_t r = 0; r < rows; r++) {
                 patches.for_each_run(row + r, column, column + columns, [&](int64_t to, int64_t place, int64_t count) {
                   copy_row(static_cast<const float*>(tile) + r * columns + place - column, count, images + to);
                 });
               }
             });
  }
  if (k.grad_bias) {
    float* grad_bias = k.grad_bias.as<float>();
    dtype == DType::bf16 ? add_bias_gradient<bf16_t>(cpu, k.grad_out, grad_bias, scratch)
                         : add_bias_gradient<float>(cpu, k.grad_out, grad_bias, scratch);
  }
  for (int64_t first = 0; k.grad_weight && first < all; first += kGradientRows) {
    const int64_t rows = std::min(kGradientRows, all - first);
    const DType operand = operand_dtype(dtype);
    Workspace left = scratch;
    std::byte* unfolded = left.take<std::byte>(rows * patches.size() * size_of(operand));
    parallel_ranges(cpu, rows, 16, [&](int64_t begin, int64_t end) {
      unfold(k.images.as<float>(), patches, first + begin, end - begin, unfolded + begin * patches.size() * size_of(operand),
             operand);
    });
    const Left gradient{k.grad_out.as<std::byte>() + first * D * size_of(dtype), dtype, true};
    add_transposed_product(cpu, {D, patches.size(), rows, dtype}, gradient, Right{unfolded, operand, rows, patches.size(), false},
                           k.grad_weight.as<float>(), left);
  }
}

// Row t of every image's tokens: the class token or a patch, with its place added.
template <class T>
void embed_forward(const Cpu& cpu, const EmbedTokensForward& k) {
  const int64_t D = k.out.dim(2), N = k.out.dim(1), prefix = k.prefix_tokens;
  parallel_ranges(cpu, k.out.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t image = row / N, t = row % N;
      const float* place = k.pos.as<float>() + t * D;
      T* out = k.out.as<T>() + row * D;
      const auto add = [&](const auto* token) {
        for_each_vector(D, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(token), at(place)), out); });
      };
      if (t < prefix)
        add(k.cls.as<float>());
      else
        add(k.patches.as<T>() + (image * (N - prefix) + t - prefix) * D);
    }
  });
}

template <class T>
void embed_backward(const Cpu& cpu, const EmbedTokensBackward& k) {
  const int64_t B = k.grad_out.dim(0), N = k.grad_out.dim(1), D = k.grad_out.dim(2), prefix = k.prefix_tokens;
  parallel_ranges(cpu, N, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      for (int64_t image = 0; image < B; image++) {
        const T* gradient = k.grad_out.as<T>() + (image * N + t) * D;
        if (k.grad_pos) add_row(gradient, D, k.grad_pos.as<float>() + t * D);
        if (k.grad_cls && t < prefix) add_row(gradient, D, k.grad_cls.as<float>());
        if (k.grad_patches && t >= prefix) {
          std::memcpy(k.grad_patches.as<T>() + (image * (N - prefix) + t - prefix) * D, gradient, D * sizeof(T));
        }
      }
    }
  });
}

void embed_tokens_forward(Cpu& cpu, const EmbedTokensForward& k) {
  k.out.dtype == DType::bf16 ? embed_forward<bf16_t>(cpu, k) : embed_forward<float>(cpu, k);
}
void embed_tokens_backward(Cpu& cpu, const EmbedTokensBackward& k) {
  k.grad_out.dtype == DType::bf16 ? embed_backward<bf16_t>(cpu, k) : embed_backward<float>(cpu, k);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(patch_embed_forward);
HWY_EXPORT(patch_embed_backward);
HWY_EXPORT(embed_tokens_forward);
HWY_EXPORT(embed_tokens_backward);

void run(Cpu& cpu, const PatchEmbedForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(patch_embed_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const PatchEmbedBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(patch_embed_backward)(cpu, k, scratch);
}
void run(Cpu& cpu, const EmbedTokensForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(embed_tokens_forward)(cpu, k); }
void run(Cpu& cpu, const EmbedTokensBackward& k, Workspace) { HWY_DYNAMIC_DISPATCH(embed_tokens_backward)(cpu, k); }

int64_t workspace(Cpu& cpu, const PatchEmbedForward& k) {
  return weight_scratch(cpu, as_matrix(k.weight), Layout::packed, k.out.dtype);
}

// The three gradients are computed one after the other, in the same scratch memory.
int64_t workspace(Cpu& cpu, const PatchEmbedBackward& k) {
  const DType dtype = k.grad_out.dtype;
  const int64_t all = k.grad_out.rows(), size = as_matrix(k.weight).dim(1);
  const int64_t for_images = k.grad_images ? weight_scratch(cpu, as_matrix(k.weight), Layout::packed_transposed, dtype) : 0;
  const int64_t for_bias = k.grad_bias ? Workspace::aligned<float>(group_count(all) * k.grad_out.dim(2)) : 0;
  int64_t for_weight = 0;
  if (k.grad_weight) {
    for_weight = Workspace::aligned<std::byte>(std::min(all, kGradientRows) * size * size_of(operand_dtype(dtype))) +
                 transposed_product_bytes(cpu, all, size, dtype);
  }
  return std::max({for_images, for_bias, for_weight});
}

SIDETUNE_CPU_KERNEL(PatchEmbedForward)
SIDETUNE_CPU_KERNEL(PatchEmbedBackward)
SIDETUNE_CPU_KERNEL(EmbedTokensForward)
SIDETUNE_CPU_KERNEL(EmbedTokensBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
