#include "../prompt.h"

#include "launch.cuh"
#include "vector.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kImages = 4;  // that a thread writes: it finds its place and reads its part of a prompt once for them

// Numbers of one image: `before` the prompts, the prompts' own, those that gave way to them, all of x, all of out.
struct Place {
  int64_t before, prompts, replaced, x, out;

  Place(int64_t at, int64_t prompts, int64_t replaced, int64_t rows_after, int64_t width)
      : before(at * width),
        prompts(prompts * width),
        replaced(replaced * width),
        x((rows_after + replaced - prompts) * width),
        out(rows_after * width) {}
};

// A thread owns V numbers of out in up to kImages images.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    prompt_forward(const T* __restrict__ x, const float* __restrict__ prompt, T* __restrict__ out, int64_t images, Place place) {
  const int64_t vectors = place.out / V, units = divide_up(images, kImages) * vectors;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; unit < units; unit += threads) {
    const int64_t i = unit % vectors * V, of_prompt = i - place.before;
    const int64_t begin = unit / vectors * kImages, end = begin + kImages < images ? begin + kImages : images;
    if (of_prompt >= 0 && of_prompt < place.prompts) {
      const Numbers<V> token = load<V>(prompt + of_prompt);
      for (int64_t image = begin; image < end; image++) store(out + image * place.out + i, token);
    } else {
      const int64_t from = of_prompt < 0 ? i : i - place.prompts + place.replaced;
#pragma unroll 4
      for (int64_t image = begin; image < end; image++) store(out + image * place.out + i, load<V>(x + image * place.x + from));
    }
  }
}

// A thread owns V numbers of gradX in up to kImages images.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    prompt_spread(const T* __restrict__ grad_out, T* __restrict__ grad_x, int64_t images, Place place) {
  const int64_t vectors = place.x / V, units = divide_up(images, kImages) * vectors;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; unit < units; unit += threads) {
    const int64_t i = unit % vectors * V, behind = i - place.before;
    const int64_t begin = unit / vectors * kImages, end = begin + kImages < images ? begin + kImages : images;
    if (behind >= 0 && behind < place.replaced) {
      for (int64_t image = begin; image < end; image++) store(grad_x + image * place.x + i, Numbers<V>{});
    } else {
      const int64_t from = behind < 0 ? i : i - place.replaced + place.prompts;
#pragma unroll 4
      for (int64_t image = begin; image < end; image++)
        store(grad_x + image * place.x + i, load<V>(grad_out + image * place.out + from));
    }
  }
}

// A thread owns V numbers of gradPrompt and adds all images in order.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    prompt_sum(const T* __restrict__ grad_out, float* __restrict__ grad_prompt, int64_t images, Place place) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; unit < place.prompts / V; unit += threads) {
    const T* from = grad_out + place.before + unit * V;
    Numbers<V> sum = load<V>(grad_prompt + unit * V);
#pragma unroll 8
    for (int64_t image = 0; image < images; image++) {
      const Numbers<V> gradient = load<V>(from + image * place.out);
      for (int n = 0; n < V; n++) sum[n] += gradient[n];
    }
    store(grad_prompt + unit * V, sum);
  }
}

Grid grid_of(Cuda& cuda, int64_t units) { return {blocks_for(cuda.properties, units, kThreads), kThreads}; }

}  // namespace

void run(Cuda& cuda, const PromptForward& k, Workspace) {
  const int64_t images = k.x.dim(0), width = k.x.dim(2);
  const Place place(k.at, k.prompt.dim(0), k.replaced, k.out.dim(1), width);
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_width(width, [&](auto v) {
      launch(cuda, prompt_forward<T, v.value>, grid_of(cuda, divide_up(images, kImages) * (place.out / v.value)),
             k.x.as<const T>(), k.prompt.as<const float>(), k.out.as<T>(), images, place);
    });
  });
}

void run(Cuda& cuda, const PromptBackward& k, Workspace) {
  const int64_t images = k.grad_out.dim(0), width = k.grad_out.dim(2);
  const Place place(k.at, k.prompts, k.replaced, k.grad_out.dim(1), width);
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const T* grad_out = k.grad_out.as<const T>();
    if (k.grad_x) {
      dispatch_width(width, [&](auto v) {
        launch(cuda, prompt_spread<T, v.value>, grid_of(cuda, divide_up(images, kImages) * (place.x / v.value)), grad_out,
               k.grad_x.as<T>(), images, place);
      });
    }
    if (k.grad_prompt) {
      dispatch_fours(width, [&](auto v) {
        launch(cuda, prompt_sum<T, v.value>, grid_of(cuda, place.prompts / v.value), grad_out, k.grad_prompt.as<float>(), images,
               place);
      });
    }
  });
}

SIDETUNE_CUDA_KERNEL(PromptForward)
SIDETUNE_CUDA_KERNEL(PromptBackward)

}  // namespace sidetune::cuda
