// D = alpha op(A) op(B) + beta C + bias, computed; checking is cublaslt.cc's.
#pragma once

#include <cublasLt.h>

#include <cstdint>

namespace sidetune::emulation {

struct Layout {
  cudaDataType_t type = CUDA_R_32F;
  cublasLtOrder_t order = CUBLASLT_ORDER_COL;
  int64_t rows = 0, columns = 0, leading_dimension = 0;
  int64_t batches = 1, batch_stride = 0;  // stride in numbers

  int64_t index(int64_t row, int64_t column) const {
    return order == CUBLASLT_ORDER_COL ? row + column * leading_dimension : row * leading_dimension + column;
  }
  // Numbers from the first to the last, with one end excluded.
  int64_t extent_of_matrix() const { return index(rows - 1, columns - 1) + 1; }
  // One behind another, or all of them side by side within the leading dimension.
  bool batches_are_apart() const {
    const int64_t line = order == CUBLASLT_ORDER_COL ? rows : columns;
    return batches == 1 || batch_stride >= extent_of_matrix() ||
           (batch_stride >= line && (batches - 1) * batch_stride + line <= leading_dimension);
  }
  int64_t extent() const { return (batches - 1) * batch_stride + extent_of_matrix(); }
};

struct MatrixProduct {
  Layout a_layout, b_layout, c_layout, d_layout;
  bool a_transposed = false, b_transposed = false;
  bool rounds_to_tf32 = false;
  float alpha = 1, beta = 0;
  const void *a = nullptr, *b = nullptr, *c = nullptr, *bias = nullptr;
  void* d = nullptr;
  cudaDataType_t bias_type = CUDA_R_32F;
};

size_t bytes_of(cudaDataType_t type);
void multiply(const MatrixProduct& product);

}  // namespace sidetune::emulation
