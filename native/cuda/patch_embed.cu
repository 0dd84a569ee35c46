#include "../patch_embed.h"

#include "convert.cuh"
#include "gemm.cuh"
#include "launch.cuh"
#include "reduce.cuh"
#include "vector.cuh"
#include "warp.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kThreads = 128;

// Where the numbers of patches lie in images.
struct Patches {
  int64_t height, width, per_image;
  int channels, side, across;

  Patches(const Tensor& images, int64_t side)
      : height(images.dim(2)),
        width(images.dim(3)),
        per_image(height / side * (width / side)),
        channels(static_cast<int>(images.dim(1))),
        side(static_cast<int>(side)),
        across(static_cast<int>(width / side)) {}

  __host__ __device__ int size() const { return channels * side * side; }
  // The top left pixel of a patch, in the first channel.
  __device__ int64_t corner(int64_t patch) const {
    const int64_t image = patch / per_image, down = patch % per_image / across, right = patch % per_image % across;
    return (image * channels * height + down * side) * width + right * side;
  }
  // How far from there a place in the patch is.
  __device__ int64_t offset(int place) const {
    const int x = place % side, y = place / side % side, channel = place / side / side;
    return (channel * height + y) * width + x;
  }
};

// to[r] = patch `first` + r. A warp owns a patch, a lane V neighbouring pixels of it.
template <class T, int V>
__global__ void unfold_kernel(const float* images, Patches patches, int64_t first, int64_t count, T* to) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp(); row < count;
       row += static_cast<int64_t>(gridDim.x) * warps) {
    const float* from = images + patches.corner(first + row);
    for (int place = lane() * V; place < patches.size(); place += kWarp * V)
      store(to + row * patches.size() + place, load<V>(from + patches.offset(place)));
  }
}

// The way back: patches do not overlap, so every pixel is written once.
template <int V>
__global__ void fold_kernel(const float* from, Patches patches, int64_t first, int64_t count, float* images) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp(); row < count;
       row += static_cast<int64_t>(gridDim.x) * warps) {
    float* to = images + patches.corner(first + row);
    for (int place = lane() * V; place < patches.size(); place += kWarp * V)
      store(to + patches.offset(place), load<V>(from + row * patches.size() + place));
  }
}

Grid grid_of(Cuda& cuda, int64_t count) { return {blocks_for(cuda.properties, count, kThreads / kWarp), kThreads}; }

void unfold(Cuda& cuda, const Tensor& images, const Patches& patches, int64_t first, int64_t count, DType dtype, void* to) {
  dispatch(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_width(patches.side, [&](auto v) {
      launch(cuda, unfold_kernel<T, v.value>, grid_of(cuda, count), images.as<const float>(), patches, first, count,
             static_cast<T*>(to));
    });
  });
}

void fold(Cuda& cuda, const float* from, const Patches& patches, int64_t first, int64_t count, const Tensor& images) {
  dispatch_width(patches.side, [&](auto v) {
    launch(cuda, fold_kernel<v.value>, grid_of(cuda, count), from, patches, first, count, images.as<float>());
  });
}

void* at_row(const Tensor& tokens, int64_t row) { return tokens.as<std::byte>() + row * tokens.dim(2) * size_of(tokens.dtype); }

// The weight as rows of patches, in the dtype of the tokens.
const void* operand(Cuda& cuda, const Tensor& weight, DType dtype, Workspace& scratch) {
  if (dtype == DType::f32) return weight.data;
  void* rounded = scratch.take<bf16_t>(weight.size());
  convert(cuda, weight.data, DType::f32, rounded, dtype, weight.size());
  return rounded;
}
int64_t operand_bytes(const Tensor& weight, DType dtype) {
  return dtype == DType::f32 ? 0 : Workspace::aligned<bf16_t>(weight.size());
}

// Unfolded patches, or their gradient, go through memory in steps.
int64_t step_of(const Tensor& tokens, const Tensor& weight, DType dtype) {
  return step_rows(tokens.rows(), weight.size() / weight.dim(0) * size_of(dtype));
}
int64_t unfolded_bytes(const Tensor& weight, int64_t step, DType dtype) {
  return Workspace::aligned<std::byte>(step * (weight.size() / weight.dim(0)) * size_of(dtype));
}

Product forward_product(const PatchEmbedForward& k, const void* unfolded, const void* weight, int64_t first, int64_t count) {
  const int64_t D = k.weight.dim(0), size = k.weight.size() / D;
  const DType dtype = k.out.dtype;
  Product p{count, D, size, dtype, {unfolded, size}, {weight, size, true}, at_row(k.out, first), dtype, D};
  p.bias = k.bias.as<float>();
  return p;
}

Product image_product(const PatchEmbedBackward& k, const void* weight, int64_t first, int64_t count, float* out) {
  const int64_t D = k.weight.dim(0), size = k.weight.size() / D;
  return {count, size, D, k.grad_out.dtype, {at_row(k.grad_out, first), D}, {weight, size}, out, DType::f32, size};
}

Product weight_product(const PatchEmbedBackward& k, const void* unfolded, int64_t first, int64_t count) {
  const int64_t D = k.weight.dim(0), size = k.weight.size() / D;
  const Matrix g{at_row(k.grad_out, first), D, true};
  Product p{D, size, count, k.grad_out.dtype, g, {unfolded, size}, k.grad_weight.data, DType::f32, size};
  p.addend = k.grad_weight.data;
  return p;
}

constexpr int64_t kImages = 8;

// out = patches or class token, + pos. A thread owns V numbers of a token in kImages images: their place is read once.
template <class T, int V>
__global__ void embed_tokens_forward(const T* __restrict__ patches, const float* __restrict__ cls, const float* __restrict__ pos,
                                     T* __restrict__ out, int64_t images, int64_t tokens, int64_t prefix, int64_t width) {
  const int64_t vectors = tokens * width / V, units = divide_up(images, kImages) * vectors;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; unit < units; unit += threads) {
    const int64_t i = unit % vectors * V, of_patches = i - prefix * width;
    const int64_t begin = unit / vectors * kImages, end = begin + kImages < images ? begin + kImages : images;
    const Numbers<V> place = load<V>(pos + i);
#pragma unroll 4
    for (int64_t image = begin; image < end; image++) {
      Numbers<V> token = of_patches < 0 ? load<V>(cls + i) : load<V>(patches + image * (tokens - prefix) * width + of_patches);
      for (int n = 0; n < V; n++) token[n] += place[n];
      store(out + image * tokens * width + i, token);
    }
  }
}

// A thread owns V numbers of a token in `images_each` images, in their order: all of them where sums are wanted.
template <class T, int V>
__global__ void embed_tokens_backward(const T* __restrict__ grad_out, T* __restrict__ grad_patches, float* __restrict__ grad_cls,
                                      float* __restrict__ grad_pos, int64_t images, int64_t images_each, int64_t tokens,
                                      int64_t prefix, int64_t width) {
  const int64_t vectors = tokens * width / V, units = divide_up(images, images_each) * vectors;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; unit < units; unit += threads) {
    const int64_t i = unit % vectors * V, of_patches = i - prefix * width;
    float* sums[2] = {grad_pos, of_patches < 0 ? grad_cls : nullptr};
    T* to = of_patches < 0 ? nullptr : grad_patches;
    if (!sums[0] && !sums[1] && !to) continue;
    const int64_t begin = unit / vectors * images_each, end = begin + images_each < images ? begin + images_each : images;
    Numbers<V> sum[2] = {};
    for (int s = 0; s < 2; s++)
      if (sums[s]) sum[s] = load<V>(sums[s] + i);
#pragma unroll 4
    for (int64_t image = begin; image < end; image++) {
      const Numbers<V> gradient = load<V>(grad_out + image * tokens * width + i);
      for (int n = 0; n < V; n++) sum[0][n] += gradient[n], sum[1][n] += gradient[n];
      if (to) store(to + image * (tokens - prefix) * width + of_patches, gradient);
    }
    for (int s = 0; s < 2; s++)
      if (sums[s]) store(sums[s] + i, sum[s]);
  }
}

}  // namespace

int64_t workspace(Cuda& cuda, const PatchEmbedForward& k) {
  const int64_t step = step_of(k.out, k.weight, k.out.dtype);
  return operand_bytes(k.weight, k.out.dtype) + unfolded_bytes(k.weight, step, k.out.dtype) +
         product_scratch(cuda, forward_product(k, nullptr, nullptr, 0, step));
}

void run(Cuda& cuda, const PatchEmbedForward& k, Workspace scratch) {
  const DType dtype = k.out.dtype;
  const int64_t rows = k.out.rows(), step = step_of(k.out, k.weight, dtype);
  const Patches patches(k.images, k.weight.dim(2));
  const void* weight = operand(cuda, k.weight, dtype, scratch);
  void* unfolded = scratch.take<std::byte>(unfolded_bytes(k.weight, step, dtype));
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    unfold(cuda, k.images, patches, first, count, dtype, unfolded);
    multiply(cuda, forward_product(k, unfolded, weight, first, count), scratch);
  }
}

// The three gradients are computed one after the other, in the same scratch memory.
int64_t workspace(Cuda& cuda, const PatchEmbedBackward& k) {
  const DType dtype = k.grad_out.dtype;
  int64_t most = 0;
  if (k.grad_images) {
    const int64_t step = step_of(k.grad_out, k.weight, DType::f32);
    most = operand_bytes(k.weight, dtype) + unfolded_bytes(k.weight, step, DType::f32) +
           product_scratch(cuda, image_product(k, nullptr, 0, step, nullptr));
  }
  if (k.grad_bias) most = std::max(most, column_sums_scratch(k.grad_out.rows(), k.grad_out.dim(2)));
  if (k.grad_weight) {
    const int64_t step = step_of(k.grad_out, k.weight, dtype);
    const int64_t product = product_scratch(cuda, weight_product(k, nullptr, 0, step));
    most = std::max(most, unfolded_bytes(k.weight, step, dtype) + product);
  }
  return most;
}

void run(Cuda& cuda, const PatchEmbedBackward& k, const Workspace scratch) {
  const DType dtype = k.grad_out.dtype;
  const int64_t rows = k.grad_out.rows();
  const Patches patches(k.images, k.weight.dim(2));
  if (k.grad_images) {
    Workspace rest = scratch;
    const int64_t step = step_of(k.grad_out, k.weight, DType::f32);
    const void* weight = operand(cuda, k.weight, dtype, rest);
    float* gradients = rest.take<float>(step * patches.size());
    for (int64_t first = 0; first < rows; first += step) {
      const int64_t count = std::min(step, rows - first);
      multiply(cuda, image_product(k, weight, first, count, gradients), rest);
      fold(cuda, gradients, patches, first, count, k.grad_images);
    }
  }
  if (k.grad_bias) add_column_sums(cuda, k.grad_out.data, dtype, rows, k.grad_out.dim(2), k.grad_bias.as<float>(), scratch);
  if (k.grad_weight) {
    Workspace rest = scratch;
    const int64_t step = step_of(k.grad_out, k.weight, dtype);
    void* unfolded = rest.take<std::byte>(unfolded_bytes(k.weight, step, dtype));
    for (int64_t first = 0; first < rows; first += step) {
      const int64_t count = std::min(step, rows - first);
      unfold(cuda, k.images, patches, first, count, dtype, unfolded);
      multiply(cuda, weight_product(k, unfolded, first, count), rest);
    }
  }
}

void run(Cuda& cuda, const EmbedTokensForward& k, Workspace) {
  const int64_t images = k.out.dim(0), tokens = k.out.dim(1), width = k.out.dim(2);
  dispatch(k.out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_width(width, [&](auto v) {
      const int64_t units = divide_up(images, kImages) * (tokens * width / v.value);
      launch(cuda, embed_tokens_forward<T, v.value>, {blocks_for(cuda.properties, units, kThreads), kThreads},
             k.patches.as<const T>(), k.cls.as<const float>(), k.pos.as<const float>(), k.out.as<T>(), images, tokens,
             k.prefix_tokens, width);
    });
  });
}

void run(Cuda& cuda, const EmbedTokensBackward& k, Workspace) {
  const int64_t images = k.grad_out.dim(0), tokens = k.grad_out.dim(1), width = k.grad_out.dim(2);
  const int64_t images_each = k.grad_pos || k.grad_cls ? images : kImages;
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_width(width, [&](auto v) {
      const int64_t units = divide_up(images, images_each) * (tokens * width / v.value);
      launch(cuda, embed_tokens_backward<T, v.value>, {blocks_for(cuda.properties, units, kThreads), kThreads},
             k.grad_out.as<const T>(), k.grad_patches.as<T>(), k.grad_cls.as<float>(), k.grad_pos.as<float>(), images,
             images_each, tokens, k.prefix_tokens, width);
    });
  });
}

SIDETUNE_CUDA_KERNEL(PatchEmbedForward)
SIDETUNE_CUDA_KERNEL(PatchEmbedBackward)
SIDETUNE_CUDA_KERNEL(EmbedTokensForward)
SIDETUNE_CUDA_KERNEL(EmbedTokensBackward)

}  // namespace sidetune::cuda
