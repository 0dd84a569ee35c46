#include "convert.cuh"

#include "each.cuh"

namespace sidetune::cuda {
namespace {

// A thread owns a number.
template <class From, class To>
__global__ void convert_rows(const From* from, int64_t from_leading, int64_t from_stride, To* to, int64_t to_leading,
                             int64_t to_stride, int64_t rows, int64_t columns, int64_t count) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
    const int64_t column = i % columns, row = i / columns % rows, matrix = i / columns / rows;
    set(to + matrix * to_stride + row * to_leading + column, number(from[matrix * from_stride + row * from_leading + column]));
  }
}

}  // namespace

void convert(Cuda& cuda, const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count) {
  if (from_dtype == to_dtype) {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(count * size_of(to_dtype)), cudaMemcpyDeviceToDevice, cuda.stream),
          "copying");
    return;
  }
  if (to_dtype == DType::bf16)
    each(cuda, count, Convert<float, bf16_t>{static_cast<const float*>(from), static_cast<bf16_t*>(to)});
  else
    each(cuda, count, Convert<bf16_t, float>{static_cast<const bf16_t*>(from), static_cast<float*>(to)});
}

namespace {

template <class From, class To>
void convert_each(Cuda& cuda, const Rows& from, const Rows& to, int64_t batch, int64_t rows, int64_t columns) {
  constexpr int kThreads = 128;
  const int64_t count = batch * rows * columns;
  launch(cuda, convert_rows<From, To>, {blocks_for(cuda.properties, count, kThreads), kThreads},
         static_cast<const From*>(from.data), from.leading, from.stride, static_cast<To*>(to.data), to.leading, to.stride, rows,
         columns, count);
}

}  // namespace

void convert(Cuda& cuda, const Rows& from, const Rows& to, int64_t batch, int64_t rows, int64_t columns) {
  if (to.dtype == DType::bf16)
    convert_each<float, bf16_t>(cuda, from, to, batch, rows, columns);
  else
    convert_each<bf16_t, float>(cuda, from, to, batch, rows, columns);
}

}  // namespace sidetune::cuda
