#include <cublasLt.h>
#include <cuda_bf16.h>

#include <cmath>
#include <functional>

#include "emulated.h"

namespace sidetune::testing {
namespace {

struct Matrix {
  cudaDataType_t type = CUDA_R_32F;
  int64_t rows = 0, columns = 0, leading_dimension = 0;
  cublasLtOrder_t order = CUBLASLT_ORDER_COL;
  int32_t batches = 1;
  int64_t batch_stride = 0;

  int64_t index(int64_t row, int64_t column) const {
    return order == CUBLASLT_ORDER_COL ? row + column * leading_dimension : row * leading_dimension + column;
  }
  int64_t numbers() const { return (batches - 1) * batch_stride + index(rows - 1, columns - 1) + 1; }
};

// One product with everything that it needs.
struct Product {
  Matrix a, b, c, d;
  bool a_transposed = false, b_transposed = false;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  float alpha = 1, beta = 0;
  bool has_bias = false;
  cudaDataType_t bias_type = CUDA_R_32F;
  uint64_t most_workspace = 1 << 20;
  const char* configuration = "";

  // Numbers before and after, widened; a, b, c and bias are filled with a pattern.
  std::vector<float> a_values, b_values, c_values, bias_values, result;
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  std::string report;

  // Changes pointers before the call: a, b, c, d, bias, workspace.
  std::function<void(char* (&pointers)[6])> disturb;
  bool in_place = false;  // C is D

  void run();
};

size_t bytes_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

std::vector<char> encoded(const std::vector<float>& values, cudaDataType_t type) {
  std::vector<char> bytes(values.size() * bytes_of(type));
  for (size_t i = 0; i < values.size(); i++) {
    const __nv_bfloat16 narrow = __float2bfloat16_rn(values[i]);
    if (type == CUDA_R_32F)
      std::memcpy(&bytes[i * 4], &values[i], 4);
    else
      std::memcpy(&bytes[i * 2], &narrow, 2);
  }
  return bytes;
}
std::vector<float> decoded(const std::vector<char>& bytes, cudaDataType_t type) {
  std::vector<float> values(bytes.size() / bytes_of(type));
  for (size_t i = 0; i < values.size(); i++) {
    unsigned short narrow;
    if (type == CUDA_R_32F)
      std::memcpy(&values[i], &bytes[i * 4], 4);
    else
      std::memcpy(&narrow, &bytes[i * 2], 2), values[i] = __bfloat162float(__ushort_as_bfloat16(narrow));
  }
  return values;
}
std::vector<float> pattern(int64_t count, int step) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i++) values[i] = static_cast<float>(i * step % 29) / 4 - 3;
  return values;
}

void Product::run() {
  Emulated device(configuration);
  a_values = pattern(a.numbers(), 7), b_values = pattern(b.numbers(), 5), c_values = pattern(c.numbers(), 3);
  bias_values = pattern(d.rows, 11);
  Numbers<char> a_there(device, encoded(a_values, a.type)), b_there(device, encoded(b_values, b.type)),
      c_there(device, encoded(c_values, c.type));
  Numbers<char> bias_there(device, encoded(bias_values, bias_type)), workspace(device, size_t{1} << 20);
  Numbers<char> d_there(device, static_cast<size_t>(d.numbers()) * bytes_of(d.type));
  char* pointers[6] = {a_there.data(),    b_there.data(),  c_there.data(), in_place ? c_there.data() : d_there.data(),
                       bias_there.data(), workspace.data()};
  if (disturb) disturb(pointers);

  cublasLtHandle_t handle = nullptr;
  cublasLtCreate(&handle);
  cublasLtMatmulDesc_t description = nullptr;
  status = cublasLtMatmulDescCreate(&description, compute, CUDA_R_32F);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
    CHECK_EQUAL(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (has_bias) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointers[4]);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, bias_type);
  }
  cublasLtMatrixLayout_t layouts[4];
  const Matrix* matrices[4] = {&a, &b, &c, &d};
  for (int i = 0; i < 4; i++) {
    const Matrix& m = *matrices[i];
    cublasLtMatrixLayoutCreate(&layouts[i], m.type, static_cast<uint64_t>(m.rows), static_cast<uint64_t>(m.columns),
                               m.leading_dimension);
    cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_ORDER, &m.order, sizeof m.order);
    cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &m.batches, sizeof m.batches);
    cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &m.batch_stride,
                                     sizeof m.batch_stride);
  }
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulPreferenceCreate(&preference);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most_workspace,
                                       sizeof most_workspace);
  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  status = cublasLtMatmulAlgoGetHeuristic(handle, description, layouts[0], layouts[1], layouts[2], layouts[3], preference, 1,
                                          &found, &count);
  if (status == CUBLAS_STATUS_SUCCESS) {
    CHECK_EQUAL(count, 1);
    CHECK(found.workspaceSize <= most_workspace);
    status = cublasLtMatmul(handle, description, &alpha, pointers[0], layouts[0], pointers[1], layouts[1], &beta, pointers[2],
                            layouts[2], pointers[3], layouts[3], &found.algo, found.workspaceSize ? pointers[5] : nullptr,
                            found.workspaceSize, device.stream);
  }
  report = device.report();
  if (status == CUBLAS_STATUS_SUCCESS) result = decoded((in_place ? c_there : d_there).read(), d.type);
  cublasLtMatmulPreferenceDestroy(preference);
  for (cublasLtMatrixLayout_t layout : layouts) cublasLtMatrixLayoutDestroy(layout);
  cublasLtMatmulDescDestroy(description);
  cublasLtDestroy(handle);
}

// m x n x k in column-major order without gaps.
Product plain(int64_t m, int64_t n, int64_t k, cudaDataType_t type = CUDA_R_32F) {
  Product p;
  p.a = {type, m, k, m};
  p.b = {type, k, n, k};
  p.c = p.d = {type, m, n, m};
  return p;
}

void check_result(const Product& p) {
  CHECK_EQUAL(p.status, CUBLAS_STATUS_SUCCESS);
  CHECK_EQUAL(p.report, "cudaSuccess");
  if (p.result.empty()) return;
  std::vector<bool> is_written(p.result.size());
  const int64_t inner = p.a_transposed ? p.a.rows : p.a.columns;
  const auto narrow = [](float value, cudaDataType_t type) {
    return type == CUDA_R_32F ? value : __bfloat162float(__float2bfloat16_rn(value));
  };
  for (int64_t batch = 0; batch < p.d.batches; batch++) {
    for (int64_t row = 0; row < p.d.rows; row++) {
      for (int64_t column = 0; column < p.d.columns; column++) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < inner; k++) {
          const int64_t a = p.a_transposed ? p.a.index(k, row) : p.a.index(row, k),
                        b = p.b_transposed ? p.b.index(column, k) : p.b.index(k, column);
          const double term = double{narrow(p.a_values[batch * p.a.batch_stride + a], p.a.type)} *
                              narrow(p.b_values[batch * p.b.batch_stride + b], p.b.type);
          sum += term, size += std::abs(term);
        }
        double expected = p.alpha * sum;
        if (p.beta != 0)
          expected += double{p.beta} * narrow(p.c_values[batch * p.c.batch_stride + p.c.index(row, column)], p.c.type);
        if (p.has_bias) expected += narrow(p.bias_values[row], p.bias_type);
        const int64_t index = batch * p.d.batch_stride + p.d.index(row, column);
        is_written[index] = true;
        // One rounding of the result, and of each sum on the way; patterns are exact in TF32.
        const double bound =
            std::abs(expected) * (p.d.type == CUDA_R_32F ? 1e-7 : 1.0 / 256) + (std::abs(p.alpha) * size + 10) * 1e-6;
        if (!(std::abs(p.result[index] - expected) <= bound)) {
          fail(__FILE__, __LINE__,
               "D[" + std::to_string(row) + ", " + std::to_string(column) + "] is " + std::to_string(p.result[index]) +
                   ", expected " + std::to_string(expected));
          return;
        }
      }
    }
  }
  if (p.in_place) return;
  for (size_t i = 0; i < is_written.size(); i++)
    if (!is_written[i]) CHECK(std::isnan(p.result[i]));
}

TEST(products_of_all_layouts) {
  for (cudaDataType_t type : {CUDA_R_32F, CUDA_R_16BF}) {
    for (int kind = 0; kind < 32; kind++) {
      Product p = plain(13, 21, 9, type);
      p.a_transposed = kind & 1, p.b_transposed = kind & 2;
      if (p.a_transposed) p.a = {type, 9, 13, 10};
      if (p.b_transposed) p.b = {type, 21, 9, 24};
      if (kind & 4) p.a.order = CUBLASLT_ORDER_ROW, p.a.leading_dimension = p.a.columns + 3;
      if (kind & 8) p.b.order = CUBLASLT_ORDER_ROW, p.b.leading_dimension = p.b.columns;
      if (kind & 16) {
        p.c.order = p.d.order = CUBLASLT_ORDER_ROW;
        p.c.leading_dimension = 22, p.d.leading_dimension = 25;
      }
      p.alpha = 0.5f, p.beta = kind % 3 ? 2.0f : 0.0f;
      p.run();
      check_result(p);
    }
  }
}

TEST(products_of_batches) {
  for (int64_t a_stride : {0, 200}) {
    Product p = plain(13, 21, 9);
    p.a.batches = p.b.batches = p.c.batches = p.d.batches = 3;
    p.a.batch_stride = a_stride;
    p.b.batch_stride = 189;
    p.c.batch_stride = 300, p.d.batch_stride = 280;
    p.beta = 1;
    p.run();
    check_result(p);
  }
}

TEST(products_with_bias_in_place_and_wide_results) {
  Product p = plain(17, 5, 33, CUDA_R_16BF);
  p.has_bias = true, p.bias_type = CUDA_R_16BF;
  p.run();
  check_result(p);
  p.in_place = true, p.beta = 1;
  p.run();
  check_result(p);
  p = plain(17, 5, 33, CUDA_R_16BF);
  p.c.type = p.d.type = CUDA_R_32F;
  p.has_bias = true;
  p.run();
  check_result(p);
  p.most_workspace = 0;
  p.run();
  check_result(p);
}

TEST(tf32_rounds_operands) {
  Product p = plain(1, 1, 1);
  p.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
  p.run();
  check_result(p);
  p = plain(197, 64, 48);
  p.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
  p.run();
  check_result(p);
}

TEST(problems_that_the_library_refuses) {
  const auto status_of = [](const std::function<void(Product&)>& change) {
    Product p = plain(16, 8, 32);
    change(p);
    p.run();
    CHECK_EQUAL(p.report, "cudaSuccess");  // it is no mistake to ask
    return p.status;
  };
  CHECK_EQUAL(status_of([](Product& p) { p.a.leading_dimension = 15; }), CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQUAL(status_of([](Product& p) { p.a_transposed = true; }), CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQUAL(status_of([](Product& p) { p.d.columns = 9; }), CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQUAL(status_of([](Product& p) { p.b.batches = 2; }), CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQUAL(status_of([](Product& p) {
                for (Matrix* m : {&p.a, &p.b, &p.c, &p.d}) m->batches = 2;
                p.d.batch_stride = 100;
              }),
              CUBLAS_STATUS_INVALID_VALUE);
  CHECK_EQUAL(status_of([](Product& p) { p.a.type = CUDA_R_16BF; }), CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK_EQUAL(status_of([](Product& p) { p.has_bias = true, p.bias_type = CUDA_R_16BF; }), CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK_EQUAL(status_of([](Product& p) {
                p.a.type = p.b.type = CUDA_R_16BF;
                p.configuration = "capability=7.5";
              }),
              CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK_EQUAL(status_of([](Product& p) {
                p.has_bias = true;
                p.c.order = p.d.order = CUBLASLT_ORDER_ROW;
              }),
              CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST(wrong_operands_are_reported) {
  const auto report_of = [](const std::function<void(char*(&)[6])>& disturb) {
    Product p = plain(16, 8, 32);
    p.has_bias = true;
    p.disturb = disturb;
    p.run();
    return p.report;
  };
  CHECK_EQUAL(report_of({}), "cudaSuccess");
  CHECK_CONTAINS(report_of([](auto& p) { p[0] += 16; }), "A is out of bounds");
  CHECK_CONTAINS(report_of([](auto& p) { p[1] += 16; }), "B is out of bounds");
  CHECK_CONTAINS(report_of([](auto& p) { p[3] += 16; }), "D is out of bounds");
  CHECK_CONTAINS(report_of([](auto& p) { p[4] += 16; }), "the bias is out of bounds");
  CHECK_CONTAINS(report_of([](auto& p) { p[5] += 4; }), "the workspace is no multiple of 16 bytes");
  CHECK_CONTAINS(report_of([](auto& p) { p[5] += (1 << 20) - 16; }), "the workspace is out of bounds");
  CHECK_CONTAINS(report_of([](auto& p) { p[3] = p[5]; }), "the workspace overlaps D");
  CHECK_CONTAINS(report_of([](auto& p) { p[1] = p[5]; }), "the workspace overlaps B");
  CHECK_CONTAINS(report_of([](auto& p) { p[0] = p[5] + 65536, p[3] = p[0] + 64; }), "A overlaps D");
  static float on_the_host[512];
  CHECK_CONTAINS(report_of([](auto& p) { p[0] = reinterpret_cast<char*>(on_the_host); }), "A is not in device memory");
  CHECK_CONTAINS(report_of([](auto& p) { p[4] = nullptr; }), "pointer was not set");
}

}  // namespace
}  // namespace sidetune::testing
