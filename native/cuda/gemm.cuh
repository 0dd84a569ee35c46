// Matrix products by cuBLASLt, in row-major terms:
//   out = scale · a b + bias + addend          a [rows, inner], b [inner, columns], out [rows, columns]; or a batch of such
// Operands are both f32 or both bf16, sums are f32, and out, f32 or of the operands' dtype, is rounded once: where cuBLASLt
// splits `inner`, the parts are f32 in its workspace and added up in a step of their own. So bits depend on shapes, the kind of
// device and the library's version, not on chance. f32 products are exact to f32 unless the device was opened with tf32. The bias
// is f32; cuBLASLt adds one of out's dtype only, so where out is bf16 the bias is rounded first: an exact one would take a pass
// over out.
//
// cuBLASLt's own GELU epilogue is the tanh approximation, which is not ours (native/gelu.h): GELU is a pass of its own. What such
// a pass reads is a product in f32, in steps of rows whose scratch memory stays in the L2 cache: nothing is rounded in between,
// and the sums do not go through memory. In bf16 and without steps, pre-activation and out would be written and read once more.
//
// Devices before compute capability 8.0 do not multiply bf16: operands are widened into scratch.
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
  const float* bias = nullptr;   // [columns]
  const void* addend = nullptr;  // laid out as out; may be out itself
};

// Scratch memory that a product asks for. Depends on shapes and dtypes, and on whether there is a bias.
int64_t product_scratch(const Cuda& cuda, const Product& product);
void multiply(Cuda& cuda, const Product& product, Workspace scratch);

// [0, rows) goes through products in equal steps of so many rows where each row takes scratch memory of its own.
constexpr int64_t kStepBytes = 14 << 20, kStepRows = 8192;
int64_t step_rows(int64_t rows, int64_t scratch_bytes_per_row);

// The library's handle, and for each kind of product the algorithm that its heuristics chose. The stream thread's own.
class Gemms {
 public:
  Gemms();
  ~Gemms();
  Gemms(const Gemms&) = delete;

  struct Plan;
  // All that the choice depends on.
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, DType, DType, bool, bool, int64_t, int64_t, int64_t, int64_t,
                         int64_t, int64_t, int, int, int, int, int>;

  cublasLtHandle_t handle = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans;
};

}  // namespace sidetune::cuda
