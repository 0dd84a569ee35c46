#include "matrix_product.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace sidetune::emulation {
namespace {

float number(const void* data, cudaDataType_t type, int64_t index) {
  return type == CUDA_R_32F ? static_cast<const float*>(data)[index]
                            : __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
}
void set_number(void* data, cudaDataType_t type, int64_t index, float value) {
  if (type == CUDA_R_32F)
    static_cast<float*>(data)[index] = value;
  else
    static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(value);
}

// To 10 bits of mantissa, to nearest even; infinities and NaN stay.
float rounded_to_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7f800000) == 0x7f800000) return value;
  bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~uint32_t{0x1fff};
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

constexpr int kRows = 4, kColumns = 16;  // of a tile

// sums = a b for a tile; a is [inner][kRows], b is [inner][kColumns].
void multiply_tile(const float* a, const float* b, int64_t inner, float (&sums)[kRows][kColumns]) {
  typedef float Vector __attribute__((vector_size(16)));
  Vector total[kRows][kColumns / 4] = {};
  for (int64_t k = 0; k < inner; k++) {
    Vector right[kColumns / 4];
    std::memcpy(right, b + k * kColumns, sizeof right);
    for (int row = 0; row < kRows; row++)
      for (int part = 0; part < kColumns / 4; part++) total[row][part] += a[k * kRows + row] * right[part];
  }
  std::memcpy(sums, total, sizeof total);
}

// op(matrix), rows in groups of `group`: [row / group][column][row % group], zeros behind the last row.
std::vector<float> packed(const void* data, const Layout& layout, int64_t offset, bool transposed, int group, bool tf32) {
  const int64_t rows = transposed ? layout.columns : layout.rows, columns = transposed ? layout.rows : layout.columns;
  std::vector<float> result(static_cast<size_t>((rows + group - 1) / group * group * columns));
  for (int64_t row = 0; row < rows; row++) {
    float* to = result.data() + row / group * group * columns + row % group;
    for (int64_t column = 0; column < columns; column++) {
      const int64_t index = transposed ? layout.index(column, row) : layout.index(row, column);
      const float value = number(data, layout.type, offset + index);
      to[column * group] = tf32 ? rounded_to_tf32(value) : value;
    }
  }
  return result;
}

}  // namespace

size_t bytes_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

void multiply(const MatrixProduct& p) {
  const int64_t rows = p.d_layout.rows, columns = p.d_layout.columns;
  const int64_t inner = p.a_transposed ? p.a_layout.rows : p.a_layout.columns;
  std::vector<float> a, b;
  for (int64_t batch = 0; batch < p.d_layout.batches; batch++) {
    const auto offset = [batch](const Layout& layout) { return batch * layout.batch_stride; };
    if (batch == 0 || p.a_layout.batch_stride != 0)
      a = packed(p.a, p.a_layout, offset(p.a_layout), p.a_transposed, kRows, p.rounds_to_tf32);
    if (batch == 0 || p.b_layout.batch_stride != 0)
      b = packed(p.b, p.b_layout, offset(p.b_layout), !p.b_transposed, kColumns, p.rounds_to_tf32);
    for (int64_t column0 = 0; column0 < columns; column0 += kColumns) {
      for (int64_t row0 = 0; row0 < rows; row0 += kRows) {
        float sums[kRows][kColumns];
        multiply_tile(a.data() + row0 * inner, b.data() + column0 * inner, inner, sums);
        for (int64_t row = row0; row < std::min(rows, row0 + kRows); row++) {
          for (int64_t column = column0; column < std::min(columns, column0 + kColumns); column++) {
            float value = p.alpha * sums[row - row0][column - column0];
            if (p.beta != 0) value += p.beta * number(p.c, p.c_layout.type, offset(p.c_layout) + p.c_layout.index(row, column));
            if (p.bias) value += number(p.bias, p.bias_type, row);
            set_number(p.d, p.d_layout.type, offset(p.d_layout) + p.d_layout.index(row, column), value);
          }
        }
      }
    }
  }
}

}  // namespace sidetune::emulation
