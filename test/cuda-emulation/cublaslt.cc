// cuBLASLt's interface, stricter than the library: what would read or write outside of an allocation, overlap or be misaligned is
// reported; what the library refuses is refused with its status, and the reason is printed.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "errors.h"
#include "matrix_product.h"
#include "memory.h"
#include "observer.h"
#include "streams.h"

struct cublasLtContext {};

struct cublasLtMatmulDescOpaque {
  cublasComputeType_t compute;
  cublasOperation_t a_operation = CUBLAS_OP_N, b_operation = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  std::optional<cudaDataType_t> bias_type;  // D's by default
};

struct cublasLtMatrixLayoutOpaque {
  sidetune::emulation::Layout layout;
};

struct cublasLtMatmulPreferenceOpaque {
  uint64_t most_workspace_bytes = 0;
  uint32_t reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK;  // how parts of a sum may be added up; here there is one part
  std::array<uint32_t, 4> alignments = {256, 256, 256, 256};    // of A, B, C, D
};

namespace sidetune::emulation {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 10;  // asked for where the preference allows it
constexpr uint32_t kMostAlignment = 16;               // an algorithm needs no more
constexpr uint64_t kAlgorithmMark = 0x73696465;

cublasStatus_t refuse(cublasStatus_t status, const std::string& reason) {
  std::fprintf(stderr, "CUDA emulation: cublasLt: %s\n", reason.c_str());
  return status;
}

// Reports, and is false.
bool wrong(const std::string& text) {
  report("cublasLtMatmul: " + text);
  return false;
}

template <class T>
cublasStatus_t assign(T& to, const void* value, size_t bytes) {
  if (!value || bytes != sizeof(T))
    return refuse(CUBLAS_STATUS_INVALID_VALUE,
                  "an attribute of " + std::to_string(sizeof(T)) + " bytes was given " + std::to_string(bytes));
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
// Enumerations in 4 bytes: `values` are the ones that are known.
template <class E>
cublasStatus_t assign_enumeration(E& to, const void* value, size_t bytes, std::initializer_list<E> values) {
  int32_t number = 0;
  if (const cublasStatus_t status = assign(number, value, bytes); status != CUBLAS_STATUS_SUCCESS) return status;
  for (E candidate : values) {
    if (static_cast<int32_t>(candidate) != number) continue;
    to = candidate;
    return CUBLAS_STATUS_SUCCESS;
  }
  return refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                "the emulation does not know the value " + std::to_string(number) + " of an attribute");
}

std::string text_of(int64_t rows, int64_t columns) { return std::to_string(rows) + "x" + std::to_string(columns); }

cublasStatus_t check_layout(const char* name, const Layout& layout) {
  const int64_t least = layout.order == CUBLASLT_ORDER_COL ? layout.rows : layout.columns;
  if (layout.rows < 1 || layout.columns < 1)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, std::string(name) + " is " + text_of(layout.rows, layout.columns));
  if (layout.leading_dimension < least)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, std::string(name) + "'s leading dimension is " +
                                                   std::to_string(layout.leading_dimension) + ", expected at least " +
                                                   std::to_string(least));
  if (layout.batches < 1)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, std::string(name) + " has " + std::to_string(layout.batches) + " batches");
  if (layout.batches > 1 && layout.batch_stride < 0)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, std::string(name) + "'s batch stride is negative");
  return CUBLAS_STATUS_SUCCESS;
}

// What the library checks before it chooses an algorithm.
cublasStatus_t check_problem(const cublasLtMatmulDescOpaque& description, const Layout& a, const Layout& b, const Layout& c,
                             const Layout& d) {
  const struct {
    const char* name;
    const Layout& layout;
  } all[] = {{"A", a}, {"B", b}, {"C", c}, {"D", d}};
  for (const auto& [name, layout] : all) {
    if (const cublasStatus_t status = check_layout(name, layout); status != CUBLAS_STATUS_SUCCESS) return status;
    if (layout.batches != d.batches)
      return refuse(CUBLAS_STATUS_INVALID_VALUE, std::string(name) + " has another number of batches than D");
  }
  const bool a_transposed = description.a_operation != CUBLAS_OP_N, b_transposed = description.b_operation != CUBLAS_OP_N;
  const int64_t m = a_transposed ? a.columns : a.rows, k = a_transposed ? a.rows : a.columns;
  const int64_t k_of_b = b_transposed ? b.columns : b.rows, n = b_transposed ? b.rows : b.columns;
  if (k != k_of_b) return refuse(CUBLAS_STATUS_INVALID_VALUE, "op(A) is " + text_of(m, k) + " and op(B) " + text_of(k_of_b, n));
  if (d.rows != m || d.columns != n)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "D is " + text_of(d.rows, d.columns) + ", expected " + text_of(m, n));
  if (c.rows != m || c.columns != n)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "C is " + text_of(c.rows, c.columns) + ", expected " + text_of(m, n));
  if (a.type != b.type || c.type != d.type || (a.type == CUDA_R_32F && d.type != CUDA_R_32F))
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "these types do not go together");
  if (a.type == CUDA_R_16BF && configuration().major < 8)
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "bf16 needs compute capability 8.0");
  if (description.compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a.type != CUDA_R_32F)
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "TF32 is for operands in f32");
  if (c.order != d.order) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "C and D differ in order");
  if (!d.batches_are_apart())
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "batches of D overlap: their stride is " + std::to_string(d.batch_stride));
  if (description.epilogue == CUBLASLT_EPILOGUE_BIAS) {
    if (d.order != CUBLASLT_ORDER_COL) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "a bias needs D in order COL");
    if (description.bias_type && *description.bias_type != d.type)
      return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "the bias has another type than D");
  }
  return CUBLAS_STATUS_SUCCESS;
}

// An algorithm knows the problem that it was found for.
uint64_t mark_of(const cublasLtMatmulDescOpaque& description, const Layout& a, const Layout& b, const Layout& d) {
  uint64_t mark = kAlgorithmMark;
  const auto add = [&mark](int64_t value) { mark = (mark ^ static_cast<uint64_t>(value)) * 0x100000001b3; };
  for (const Layout* layout : {&a, &b, &d})
    for (int64_t value : {int64_t{layout->type}, int64_t{layout->order}, layout->rows, layout->columns, layout->leading_dimension,
                          layout->batches})
      add(value);
  for (int64_t value : {int64_t{description.compute}, int64_t{description.a_operation}, int64_t{description.b_operation},
                        int64_t{description.epilogue}})
    add(value);
  return mark;
}

bool overlap(const void* a, size_t a_bytes, const void* b, size_t b_bytes) {
  const auto *a0 = static_cast<const char*>(a), *b0 = static_cast<const char*>(b);
  return a0 < b0 + b_bytes && b0 < a0 + a_bytes;
}

bool same(const Layout& x, const Layout& y) {
  return x.type == y.type && x.order == y.order && x.leading_dimension == y.leading_dimension && x.batches == y.batches &&
         (x.batches == 1 || x.batch_stride == y.batch_stride);
}

struct Operand {
  const char* name;
  const void* data;
  size_t bytes;
  uint32_t alignment;
};

bool check_operand(const Operand& operand) {
  if (!operand.data) return wrong(std::string(operand.name) + " is null");
  if (!check_device_range(std::string("cublasLtMatmul: ") + operand.name, operand.data, operand.bytes)) return false;
  if (reinterpret_cast<uintptr_t>(operand.data) % operand.alignment == 0) return true;
  return wrong(std::string(operand.name) + " is no multiple of " + std::to_string(operand.alignment) + " bytes");
}

using Alignments = std::array<uint32_t, 4>;  // of A, B, C, D

// Ranges, alignment and overlaps of everything that the product touches.
bool check_memory(const MatrixProduct& p, const Alignments& alignments, const void* workspace, size_t workspace_bytes) {
  const auto bytes = [](const Layout& layout) { return static_cast<size_t>(layout.extent()) * bytes_of(layout.type); };
  const Operand c = {"C", p.c, bytes(p.c_layout), alignments[2]}, d = {"D", p.d, bytes(p.d_layout), alignments[3]};
  const Operand scratch = {"the workspace", workspace, workspace_bytes, kMostAlignment};
  std::vector<Operand> read = {{"A", p.a, bytes(p.a_layout), alignments[0]}, {"B", p.b, bytes(p.b_layout), alignments[1]}};
  if (p.bias) read.push_back({"the bias", p.bias, static_cast<size_t>(p.d_layout.rows) * bytes_of(p.bias_type), kMostAlignment});
  const bool in_place = p.c == p.d && same(p.c_layout, p.d_layout);
  if (p.beta != 0 && !in_place) read.push_back(c);
  if (!check_operand(d) || (workspace_bytes > 0 && !check_operand(scratch))) return false;
  const auto meet = [](const Operand& x, const Operand& y) {
    return x.bytes > 0 && y.bytes > 0 && overlap(x.data, x.bytes, y.data, y.bytes) &&
           !wrong(std::string(x.name) + " overlaps " + y.name);
  };
  if (meet(scratch, d)) return false;
  for (const Operand& operand : read)
    if (!check_operand(operand) || meet(operand, d) || meet(scratch, operand)) return false;
  return true;
}

// Calls visit(begin, bytes) for each column, or row, that lies in one piece.
template <class Visit>
void for_each_line(const Layout& layout, const void* data, const Visit& visit) {
  const bool by_column = layout.order == CUBLASLT_ORDER_COL;
  const int64_t lines = by_column ? layout.columns : layout.rows, length = by_column ? layout.rows : layout.columns;
  const auto size = static_cast<int64_t>(bytes_of(layout.type));
  for (int64_t batch = 0; batch < layout.batches; batch++)
    for (int64_t line = 0; line < lines; line++)
      visit(static_cast<const char*>(data) + (batch * layout.batch_stride + line * layout.leading_dimension) * size,
            static_cast<size_t>(length * size));
}

// Whether all that the product reads was written.
bool check_content(const MatrixProduct& p) {
  bool is_written = true;
  const auto check = [&is_written](const char* name, const Layout& layout, const void* data) {
    for_each_line(layout, data, [&](const void* line, size_t bytes) {
      is_written = is_written && observer->read_by_stream(std::string("cublasLtMatmul: ") + name, line, bytes);
    });
  };
  check("A", p.a_layout, p.a);
  check("B", p.b_layout, p.b);
  if (p.beta != 0) check("C", p.c_layout, p.c);
  if (p.bias && is_written)
    is_written = observer->read_by_stream("cublasLtMatmul: the bias", p.bias,
                                          static_cast<size_t>(p.d_layout.rows) * bytes_of(p.bias_type));
  return is_written;
}

}  // namespace
}  // namespace sidetune::emulation

using namespace sidetune::emulation;

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (enter("cublasLtCreate")) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "CUBLAS_STATUS_UNKNOWN";
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_EXECUTION_FAILED) return cudaGetErrorString(cudaErrorLaunchFailure);
  return cublasLtGetStatusName(status);
}

size_t cublasLtGetVersion() { return 130000; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute, cudaDataType_t scale) {
  if (!description) return CUBLAS_STATUS_INVALID_VALUE;
  if ((compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_FAST_TF32) || scale != CUDA_R_32F)
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "products are computed in f32 or TF32, with factors in f32");
  *description = new cublasLtMatmulDescOpaque;
  (*description)->compute = compute;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  if (!description) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return assign_enumeration(description->a_operation, value, bytes, {CUBLAS_OP_N, CUBLAS_OP_T});
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return assign_enumeration(description->b_operation, value, bytes, {CUBLAS_OP_N, CUBLAS_OP_T});
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return assign_enumeration(description->epilogue, value, bytes, {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS});
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return assign(description->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: {
      cudaDataType_t type = CUDA_R_32F;
      const cublasStatus_t status = assign_enumeration(type, value, bytes, {CUDA_R_32F, CUDA_R_16BF});
      if (status == CUBLAS_STATUS_SUCCESS) description->bias_type = type;
      return status;
    }
  }
  return refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                "the emulation does not know attribute " + std::to_string(attribute) + " of a product");
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t columns,
                                          int64_t leading_dimension) {
  if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
  if (type != CUDA_R_32F && type != CUDA_R_16BF) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "matrices are f32 or bf16");
  *layout = new cublasLtMatrixLayoutOpaque;
  Layout& made = (*layout)->layout;
  made.type = type;
  made.rows = static_cast<int64_t>(rows);
  made.columns = static_cast<int64_t>(columns);
  made.leading_dimension = leading_dimension;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
  Layout& to = layout->layout;
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return assign_enumeration(to.type, value, bytes, {CUDA_R_32F, CUDA_R_16BF});
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return assign_enumeration(to.order, value, bytes, {CUBLASLT_ORDER_COL, CUBLASLT_ORDER_ROW});
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return assign(to.rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return assign(to.columns, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return assign(to.leading_dimension, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return assign(to.batch_stride, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: {
      int32_t batches = 0;
      const cublasStatus_t status = assign(batches, value, bytes);
      if (status == CUBLAS_STATUS_SUCCESS) to.batches = batches;
      return status;
    }
  }
  return refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                "the emulation does not know attribute " + std::to_string(attribute) + " of a matrix");
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
  *preference = new cublasLtMatmulPreferenceOpaque;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return assign(preference->most_workspace_bytes, value, bytes);
  if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) return assign(preference->reduction_schemes, value, bytes);
  if (attribute >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES && attribute <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
    return assign(preference->alignments[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
  return refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                "the emulation does not know attribute " + std::to_string(attribute) + " of a preference");
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  if (!handle || !description || !a || !b || !c || !d || !preference || !results || !found || wanted < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  *found = 0;
  if (enter("cublasLtMatmulAlgoGetHeuristic")) return CUBLAS_STATUS_NOT_SUPPORTED;
  const cublasStatus_t status = check_problem(*description, a->layout, b->layout, c->layout, d->layout);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const bool has_workspace = preference->most_workspace_bytes >= kWorkspaceBytes;
  results[0] = {};
  results[0].workspaceSize = has_workspace ? kWorkspaceBytes : 0;
  results[0].algo.data[0] = mark_of(*description, a->layout, b->layout, d->layout);
  results[0].algo.data[1] = results[0].workspaceSize;
  for (int i = 0; i < 4; i++) results[0].algo.data[2 + i] = std::min(preference->alignments[i], kMostAlignment);
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  if (enter("cublasLtMatmul")) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (!handle || !description || !alpha || !beta || !a_layout || !b_layout || !c_layout || !d_layout)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!check_stream("cublasLtMatmul", stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (!check_host_range("cublasLtMatmul: alpha", alpha, 4) || !check_host_range("cublasLtMatmul: beta", beta, 4))
    return CUBLAS_STATUS_EXECUTION_FAILED;
  MatrixProduct p;
  p.a_layout = a_layout->layout, p.b_layout = b_layout->layout, p.c_layout = c_layout->layout, p.d_layout = d_layout->layout;
  if (const cublasStatus_t status = check_problem(*description, p.a_layout, p.b_layout, p.c_layout, p.d_layout);
      status != CUBLAS_STATUS_SUCCESS)
    return status;
  Alignments alignments = {kMostAlignment, kMostAlignment, kMostAlignment, kMostAlignment};
  if (algorithm) {
    if (algorithm->data[0] != mark_of(*description, p.a_layout, p.b_layout, p.d_layout))
      return refuse(CUBLAS_STATUS_INVALID_VALUE, "the algorithm was found for another problem");
    if (workspace_bytes < algorithm->data[1])
      return refuse(CUBLAS_STATUS_INVALID_VALUE,
                    "the algorithm needs a workspace of " + std::to_string(algorithm->data[1]) + " bytes");
    for (int i = 0; i < 4; i++) alignments[i] = static_cast<uint32_t>(algorithm->data[2 + i]);
  }
  p.a_transposed = description->a_operation != CUBLAS_OP_N;
  p.b_transposed = description->b_operation != CUBLAS_OP_N;
  p.rounds_to_tf32 = description->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  std::memcpy(&p.alpha, alpha, sizeof p.alpha);
  std::memcpy(&p.beta, beta, sizeof p.beta);
  p.a = a, p.b = b, p.c = c, p.d = d;
  p.bias_type = p.d_layout.type;
  if (description->epilogue == CUBLASLT_EPILOGUE_BIAS) {
    if (!description->bias && !wrong("the epilogue adds a bias, and its pointer was not set"))
      return CUBLAS_STATUS_EXECUTION_FAILED;
    p.bias = description->bias;
  }
  const auto check = [=] { return check_memory(p, alignments, workspace, workspace_bytes); };
  const auto run = [=] {
    if (workspace_bytes > 0) std::memset(workspace, 0xff, workspace_bytes);
    if (observer && !check_content(p)) return;
    multiply(p);
    if (observer)
      for_each_line(p.d_layout, p.d, [](const void* line, size_t bytes) { observer->written_by_stream(line, bytes); });
  };
  const cudaError_t error = submit(stream, {"cublasLtMatmul", run, check});
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
