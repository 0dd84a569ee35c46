#include "gemm.cuh"

#include <algorithm>
#include <string>

#include "convert.cuh"
#include "launch.cuh"
#include "vector.cuh"

namespace sidetune::cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw Error(status == CUBLAS_STATUS_ALLOC_FAILED ? Code::memory : Code::late,
                std::string(what) + ": cuBLASLt says " + cublasLtGetStatusString(status));
  }
}

cudaDataType_t type_of(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

// The largest power of two, up to 64, that divides an address and every step from it. Tensors and scratch begin at multiples of
// 64, so it depends on shapes alone, and with it the choice of the algorithm.
int alignment_of(const void* data, DType dtype, int64_t leading, int64_t stride) {
  const auto bits = reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>((leading | stride) * size_of(dtype)) | 64;
  return static_cast<int>(bits & (~bits + 1));
}

// What NVIDIA recommends.
constexpr int64_t kWorkspaceBytes = 4 << 20, kHopperWorkspaceBytes = 32 << 20;
int64_t workspace_bytes(const Cuda& cuda) { return cuda.properties.major >= 9 ? kHopperWorkspaceBytes : kWorkspaceBytes; }

}  // namespace

// Descriptions of one kind of product, as cuBLASLt wants them. It is column-major: a row-major matrix is its transpose there, so
// outᵀ = bᵀ aᵀ is what it computes, with b as its first operand.
struct Gemms::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};

  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {a, b, out})
      if (layout) cublasLtMatrixLayoutDestroy(layout);
    if (operation) cublasLtMatmulDescDestroy(operation);
  }
};

namespace {

template <class Value>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, Value value) {
  check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value), "describing a product");
}

cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t columns, bool transposed, int64_t leading, int64_t batch,
                              int64_t stride) {
  if (transposed) std::swap(rows, columns);
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, type_of(dtype), static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), leading),
        "describing a matrix");
  if (batch > 1) {
    const auto count = static_cast<int32_t>(batch);
    check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "describing a batch");
    check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride),
          "describing a batch");
  }
  return made;
}

struct Alignments {
  int a, b, out, addend, bias;  // 0: no bias
};

void choose_algorithm(const Cuda& cuda, Gemms::Plan& plan, const Product& p, const Alignments& alignments) {
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "choosing an algorithm");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "choosing an algorithm");
  };
  cublasLtMatmulHeuristicResult_t result = {};
  int found = 0;
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  try {
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes(cuda)));
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(alignments.b));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(alignments.a));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(alignments.addend));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(alignments.out));
    status = cublasLtMatmulAlgoGetHeuristic(cuda.gemms->handle, plan.operation, plan.b, plan.a, plan.out, plan.out, preference, 1,
                                            &result, &found);
  } catch (...) {
    cublasLtMatmulPreferenceDestroy(preference);
    throw;
  }
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
    throw Error(Code::late, "cuBLASLt has no algorithm for a product of [" + std::to_string(p.rows) + ", " +
                                std::to_string(p.inner) + "] and [" + std::to_string(p.inner) + ", " + std::to_string(p.columns) +
                                "] in " + name_of(p.dtype) + ": " + cublasLtGetStatusString(status));
  }
  plan.algorithm = result.algo;
}

std::unique_ptr<Gemms::Plan> make_plan(const Cuda& cuda, const Product& p, const void* bias, const Alignments& alignments) {
  auto plan = std::make_unique<Gemms::Plan>();
  const bool tf32 = cuda.tf32 && p.dtype == DType::f32;
  check(cublasLtMatmulDescCreate(&plan->operation, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "describing a product");
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (bias) {
    set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);  // the heuristics look at its alignment
  }
  plan->a = layout(p.dtype, p.rows, p.inner, p.a.transposed, p.a.leading, p.batch, p.a.stride);
  plan->b = layout(p.dtype, p.inner, p.columns, p.b.transposed, p.b.leading, p.batch, p.b.stride);
  plan->out = layout(p.out_dtype, p.rows, p.columns, false, p.out_leading, p.batch, p.out_stride);
  choose_algorithm(cuda, *plan, p, alignments);
  return plan;
}

bool is_widened(const Cuda& cuda, const Product& p) { return p.dtype == DType::bf16 && !cuda.properties.has_bf16(); }
bool rounds_bias(const Product& p) { return p.bias && p.out_dtype == DType::bf16; }

// Operands, and out where it is bf16, lie densely in scratch, in f32.
int64_t widened_bytes(const Product& p) {
  return Workspace::aligned<float>(p.batch * p.rows * p.inner) + Workspace::aligned<float>(p.batch * p.inner * p.columns) +
         (p.out_dtype == DType::bf16 ? Workspace::aligned<float>(p.batch * p.rows * p.columns) : 0);
}

void multiply_widened(Cuda& cuda, const Product& p, Workspace scratch) {
  const auto widen_operand = [&](const Matrix& from, int64_t rows, int64_t columns) {
    if (from.transposed) std::swap(rows, columns);
    const Matrix to{scratch.take<float>(p.batch * rows * columns), columns, from.transposed, rows * columns};
    convert(cuda, Rows{const_cast<void*>(from.data), DType::bf16, from.leading, from.stride},
            Rows{const_cast<void*>(to.data), DType::f32, to.leading, to.stride}, p.batch, rows, columns);
    return to;
  };
  Product wide = p;
  wide.a = widen_operand(p.a, p.rows, p.inner);
  wide.b = widen_operand(p.b, p.inner, p.columns);
  wide.dtype = DType::f32;
  if (p.out_dtype == DType::f32) return multiply(cuda, wide, scratch);
  const Rows sums{scratch.take<float>(p.batch * p.rows * p.columns), DType::f32, p.columns, p.rows * p.columns};
  const auto rounded = [&](const void* data) { return Rows{const_cast<void*>(data), DType::bf16, p.out_leading, p.out_stride}; };
  wide.out = sums.data, wide.out_dtype = DType::f32, wide.out_leading = sums.leading, wide.out_stride = sums.stride;
  if (p.addend) {
    convert(cuda, rounded(p.addend), sums, p.batch, p.rows, p.columns);
    wide.addend = sums.data;
  }
  multiply(cuda, wide, scratch);
  convert(cuda, sums, rounded(p.out), p.batch, p.rows, p.columns);
}

}  // namespace

Gemms::Gemms() { check(cublasLtCreate(&handle), "starting cuBLASLt"); }
Gemms::~Gemms() {
  plans.clear();
  cublasLtDestroy(handle);
}

int64_t product_scratch(const Cuda& cuda, const Product& p) {
  const int64_t other = is_widened(cuda, p) ? widened_bytes(p) : rounds_bias(p) ? Workspace::aligned<bf16_t>(p.columns) : 0;
  return workspace_bytes(cuda) + other;
}

void multiply(Cuda& cuda, const Product& p, Workspace scratch) {
  if (p.rows == 0 || p.columns == 0 || p.batch == 0) return;
  if (is_widened(cuda, p)) return multiply_widened(cuda, p, scratch);
  const void* bias = p.bias;
  if (rounds_bias(p)) {
    void* rounded = scratch.take<bf16_t>(p.columns);
    convert(cuda, p.bias, DType::f32, rounded, DType::bf16, p.columns);
    bias = rounded;
  }
  const Alignments alignments{alignment_of(p.a.data, p.dtype, p.a.leading, p.a.stride),
                              alignment_of(p.b.data, p.dtype, p.b.leading, p.b.stride),
                              alignment_of(p.out, p.out_dtype, p.out_leading, p.out_stride),
                              alignment_of(p.addend ? p.addend : p.out, p.out_dtype, p.out_leading, p.out_stride),
                              bias ? alignment_of(bias, p.out_dtype, 0, 0) : 0};
  const Gemms::Key key{p.rows,        p.columns,      p.inner,           p.batch,        p.dtype,
                       p.out_dtype,   p.a.transposed, p.b.transposed,    p.a.leading,    p.b.leading,
                       p.out_leading, p.a.stride,     p.b.stride,        p.out_stride,   alignments.a,
                       alignments.b,  alignments.out, alignments.addend, alignments.bias};
  std::unique_ptr<Gemms::Plan>& plan = cuda.gemms->plans[key];
  if (!plan) plan = make_plan(cuda, p, bias, alignments);
  if (bias) set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const float beta = p.addend ? 1 : 0;
  const int64_t room_bytes = workspace_bytes(cuda);
  void* room = scratch.take<std::byte>(room_bytes);
  check(cublasLtMatmul(cuda.gemms->handle, plan->operation, &p.scale, p.b.data, plan->b, p.a.data, plan->a, &beta,
                       p.addend ? p.addend : p.out, plan->out, p.out, plan->out, &plan->algorithm, room,
                       static_cast<size_t>(room_bytes), cuda.stream),
        "multiplying");
}

int64_t step_rows(int64_t rows, int64_t scratch_bytes_per_row) {
  constexpr int64_t kTileRows = 64;
  if (scratch_bytes_per_row == 0) return rows;
  const int64_t fit = kStepBytes / scratch_bytes_per_row / kTileRows * kTileRows;
  const int64_t steps = divide_up(rows, std::clamp(fit, kTileRows, kStepRows));
  return std::min(rows, divide_up(divide_up(rows, steps), kTileRows) * kTileRows);
}

}  // namespace sidetune::cuda
