#include "gemm.cuh"

#include <algorithm>
#include <string>

namespace sidetune::cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw Error(status == CUBLAS_STATUS_ALLOC_FAILED ? Code::memory : Code::late,
                std::string(what) + ": cuBLASLt says " + cublasLtGetStatusString(status));
  }
}

cudaDataType_t type_of(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

// The largest power of two, up to 256, that divides an address and every step from it.
int alignment_of(const void* data, DType dtype, int64_t leading, int64_t stride) {
  const auto bits = reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>((leading | stride) * size_of(dtype)) | 256;
  return static_cast<int>(bits & (~bits + 1));
}

constexpr int64_t kScratchBytes = 4 << 20, kHopperScratchBytes = 32 << 20;

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
  int a, b, out;
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
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(product_scratch(cuda)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(alignments.b));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(alignments.a));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(alignments.out));
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

std::unique_ptr<Gemms::Plan> make_plan(const Cuda& cuda, const Product& p, const Alignments& alignments) {
  auto plan = std::make_unique<Gemms::Plan>();
  const bool tf32 = cuda.tf32 && p.dtype == DType::f32;
  check(cublasLtMatmulDescCreate(&plan->operation, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "describing a product");
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.bias) {
    set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);  // the heuristics look at its alignment
  }
  plan->a = layout(p.dtype, p.rows, p.inner, p.a.transposed, p.a.leading, p.batch, p.a.stride);
  plan->b = layout(p.dtype, p.inner, p.columns, p.b.transposed, p.b.leading, p.batch, p.b.stride);
  plan->out = layout(p.out_dtype, p.rows, p.columns, false, p.out_leading, p.batch, p.out_stride);
  choose_algorithm(cuda, *plan, p, alignments);
  return plan;
}

}  // namespace

Gemms::Gemms() { check(cublasLtCreate(&handle), "starting cuBLASLt"); }
Gemms::~Gemms() {
  plans.clear();
  cublasLtDestroy(handle);
}

int64_t product_scratch(const Cuda& cuda) { return cuda.properties.major >= 9 ? kHopperScratchBytes : kScratchBytes; }

void multiply(Cuda& cuda, const Product& p, Workspace scratch) {
  if (p.rows == 0 || p.columns == 0 || p.batch == 0) return;
  const Alignments alignments{alignment_of(p.a.data, p.dtype, p.a.leading, p.a.stride),
                              alignment_of(p.b.data, p.dtype, p.b.leading, p.b.stride),
                              alignment_of(p.out, p.out_dtype, p.out_leading, p.out_stride)};
  const Gemms::Key key{
      p.rows,       p.columns,    p.inner,       p.batch,    p.dtype,    p.out_dtype,  p.a.transposed,    p.b.transposed,
      p.a.leading,  p.b.leading,  p.out_leading, p.a.stride, p.b.stride, p.out_stride, p.bias != nullptr, p.addend != nullptr,
      alignments.a, alignments.b, alignments.out};
  std::unique_ptr<Gemms::Plan>& plan = cuda.gemms->plans[key];
  if (!plan) plan = make_plan(cuda, p, alignments);
  if (p.bias) set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  const float beta = p.addend ? 1 : 0;
  void* room = scratch.take<std::byte>(product_scratch(cuda));
  check(cublasLtMatmul(cuda.gemms->handle, plan->operation, &p.scale, p.b.data, plan->b, p.a.data, plan->a, &beta,
                       p.addend ? p.addend : p.out, plan->out, p.out, plan->out, &plan->algorithm, room,
                       static_cast<size_t>(product_scratch(cuda)), cuda.stream),
        "multiplying");
}

}  // namespace sidetune::cuda
