// Matrix products by cuBLASLt, in row-major terms:
//   out = scale · a b + bias + addend          a [rows, inner], b [inner, columns], out [rows, columns]; or a batch of such
// Operands are both f32 or both bf16, sums are f32, out is f32 or of the operands' dtype. f32 products are exact to f32 unless
// the device was opened with tf32. cuBLASLt adds a bias of out's dtype only, so in bf16 a bias is rounded before it is added.
//
// cuBLASLt's own GELU epilogue is the tanh approximation, which is not ours (native/gelu.h): GELU is a pass of its own.
#pragma once

#include <cublasLt.h>

#include <map>
#include <memory>
#include <tuple>

#include "backend.cuh"

namespace sidetune::cuda {

// A row-major matrix whose rows begin `leading` numbers apart; in a batch the matrices begin `stride` numbers apart. A transposed
// one is stored as the transpose of what it stands for.
struct Matrix {
  const void* data;
  int64_t leading;
  bool transposed = false;
  int64_t stride = 0;
};

struct Product {
  int64_t rows, columns, inner;
  DType dtype;  // of a and b
  Matrix a, b;
  void* out;
  DType out_dtype;
  int64_t out_leading;
  int64_t out_stride = 0;
  int64_t batch = 1;
  float scale = 1;
  const void* bias = nullptr;    // [columns], of out's dtype
  const void* addend = nullptr;  // laid out as out; may be out itself
};

// Scratch memory that a product asks for, whatever its shape.
int64_t product_scratch(const Cuda& cuda);
void multiply(Cuda& cuda, const Product& product, Workspace scratch);

// The library's handle, and for each kind of product the algorithm that its heuristics chose. The stream thread's own.
class Gemms {
 public:
  Gemms();
  ~Gemms();
  Gemms(const Gemms&) = delete;

  struct Plan;
  // All that the choice depends on.
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, DType, DType, bool, bool, int64_t, int64_t, int64_t, int64_t,
                         int64_t, int64_t, bool, bool, int, int, int>;

  cublasLtHandle_t handle = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans;
};

}  // namespace sidetune::cuda
