#include "../elementwise.h"

#include "each.cuh"

namespace sidetune::cuda {
namespace {

template <class T>
struct Add {
  const T *a, *b;
  T* out;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> sum = load<V>(a + i);
    const Numbers<V> more = load<V>(b + i);
    for (int n = 0; n < V; n++) sum[n] += more[n];
    store(out + i, sum);
  }
};

struct Times {
  float factor;
  __device__ float operator()(float x) const { return x * factor; }
};

template <class T>
struct Constant {
  T* out;
  float value;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> numbers;
    for (int n = 0; n < V; n++) numbers[n] = value;
    store(out + i, numbers);
  }
};

constexpr int kResidualThreads = 128, kResidualVectors = 4;  // that a thread has of a stretch

// out_b = x_b + rowScale_b branch_b; without x, out_b = rowScale_b branch_b. A block owns a stretch of one image, so it looks up
// one scale; a thread owns every 128th vector of the stretch.
template <class T, int V>
__global__ void residual_add(const T* x, const T* branch, const float* row_scale, T* out, int64_t images, int64_t image_size) {
  const int64_t stretch = int64_t{kResidualThreads} * kResidualVectors * V, stretches = (image_size + stretch - 1) / stretch;
  for (int64_t task = blockIdx.x; task < images * stretches; task += gridDim.x) {
    const int64_t image = task / stretches, begin = (task - image * stretches) * stretch;
    const int64_t end = begin + stretch < image_size ? begin + stretch : image_size;
    const float factor = row_scale[image];
    for (int64_t i = begin + threadIdx.x * V; i < end; i += kResidualThreads * V) {
      const int64_t place = image * image_size + i;
      Numbers<V> sum = {};
      if (x) sum = load<V>(x + place);
      if (factor != 0) {
        const Numbers<V> more = load<V>(branch + place);
        for (int n = 0; n < V; n++) sum[n] = fmaf(factor, more[n], sum[n]);
      }
      store(out + place, sum);
    }
  }
}

template <class T>
void launch_residual_add(Cuda& cuda, const T* x, const T* branch, const float* row_scale, const Tensor& out) {
  const int64_t images = out.dim(0), image_size = out.dim(1) * out.dim(2);
  dispatch_width(image_size, [&](auto width) {
    const int64_t tasks = images * divide_up(image_size, int64_t{kResidualThreads} * kResidualVectors * width.value);
    launch(cuda, residual_add<T, width.value>, {blocks_for(cuda.properties, tasks, 1), kResidualThreads}, x, branch, row_scale,
           out.as<T>(), images, image_size);
  });
}

void add(Cuda& cuda, const Tensor& a, const Tensor& b, const Tensor& out) {
  dispatch(out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, out.size(), Add<T>{a.as<const T>(), b.as<const T>(), out.as<T>()});
  });
}

template <class From>
void cast_from(Cuda& cuda, const Cast& k) {
  dispatch(k.out.dtype, [&](auto type) {
    using To = typename decltype(type)::type;
    each(cuda, k.out.size(), Convert<From, To>{k.x.as<const From>(), k.out.as<To>()});
  });
}

}  // namespace

void run(Cuda& cuda, const AddForward& k, Workspace) { add(cuda, k.a, k.b, k.out); }

void run(Cuda& cuda, const AddInto& k, Workspace) { add(cuda, k.target, k.x, k.target); }

void run(Cuda& cuda, const Scale& k, Workspace) {
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.x.size(), Map<T, Times>{k.x.as<const T>(), k.out.as<T>(), {k.factor}});
  });
}

void run(Cuda& cuda, const Cast& k, Workspace) {
  if (k.x.dtype == DType::u8) return cast_from<uint8_t>(cuda, k);
  dispatch(k.x.dtype, [&](auto type) { cast_from<typename decltype(type)::type>(cuda, k); });
}

void run(Cuda& cuda, const Fill& k, Workspace) {
  dispatch(k.out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.out.size(), Constant<T>{k.out.as<T>(), k.value});
  });
}

void run(Cuda& cuda, const ResidualAddForward& k, Workspace) {
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    launch_residual_add(cuda, k.x.as<const T>(), k.branch.as<const T>(), k.row_scale.as<const float>(), k.out);
  });
}

void run(Cuda& cuda, const ResidualAddBackward& k, Workspace) {
  if (!k.grad_branch) return;
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    launch_residual_add<T>(cuda, nullptr, k.grad_out.as<const T>(), k.row_scale.as<const float>(), k.grad_branch);
  });
}

SIDETUNE_CUDA_KERNEL(AddForward)
SIDETUNE_CUDA_KERNEL(AddInto)
SIDETUNE_CUDA_KERNEL(Scale)
SIDETUNE_CUDA_KERNEL(Cast)
SIDETUNE_CUDA_KERNEL(Fill)
SIDETUNE_CUDA_KERNEL(ResidualAddForward)
SIDETUNE_CUDA_KERNEL(ResidualAddBackward)

}  // namespace sidetune::cuda
