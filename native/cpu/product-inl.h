// Products of f32 matrices that lie in cache, for kernels that work on tiles: C = A B or C += A B, one register block of C at a time.
// Include inside foreach_target files only, after math-inl.h.
#if defined(SIDETUNE_CPU_PRODUCT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SIDETUNE_CPU_PRODUCT_INL_H
#undef SIDETUNE_CPU_PRODUCT_INL_H
#else
#define SIDETUNE_CPU_PRODUCT_INL_H
#endif

#include "product.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

// A block of C in registers: rows × 4 vectors. With 32 registers 24 hold C, 6 the row's numbers of A and one the numbers of B; with 16 half of that.
constexpr int kBlockRows = HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3 ? 3 : 6;
constexpr int64_t kBlockVectors = 4;
static_assert(kPadRows % kBlockRows == 0 && hn::MaxLanes(F()) <= kPadColumns, "blocks end within the padding");

// A matrix with any two strides, so that a transposed operand needs no copy.
struct Strided {
  const float* data;
  int64_t row, column;
};

template <int Vectors>
void product_block(Strided a, int64_t depth, const float* HWY_RESTRICT b, int64_t b_row, float* HWY_RESTRICT c, int64_t c_row, bool add) {
  const F f;
  const int64_t step = static_cast<int64_t>(lanes());
  const float* HWY_RESTRICT left = a.data;
  V sums[kBlockRows][Vectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kBlockRows; r++) {
    HWY_UNROLL(4)
    for (int v = 0; v < Vectors; v++) sums[r][v] = add ? load(c + r * c_row + v * step) : hn::Zero(f);
  }
  for (int64_t k = 0; k < depth; k++) {
    V numbers[kBlockRows];
    HWY_UNROLL(8)
    for (int r = 0; r < kBlockRows; r++) numbers[r] = hn::Set(f, left[r * a.row]);
    HWY_UNROLL(4)
    for (int v = 0; v < Vectors; v++) {
      const V right = load(b + v * step);
      HWY_UNROLL(8)
      for (int r = 0; r < kBlockRows; r++) sums[r][v] = hn::MulAdd(numbers[r], right, sums[r][v]);
    }
    left += a.column;
    b += b_row;
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kBlockRows; r++) {
    HWY_UNROLL(4)
    for (int v = 0; v < Vectors; v++) store(sums[r][v], c + r * c_row + v * step);
  }
}

// C[rows, columns] = A[rows, depth] B[depth, columns], or += . Whole blocks are computed: A and C must reach to the next multiple of kPadRows rows,
// B and C to the next multiple of kPadColumns columns (product.h). Each number of C is a sum over the depth in order, wherever its block lies.
HWY_INLINE void product(int64_t rows, int64_t depth, int64_t columns, Strided a, const float* b, int64_t b_row, float* c, int64_t c_row, bool add) {
  const int64_t step = static_cast<int64_t>(lanes());
  const int64_t vectors = (columns + step - 1) / step, panels = (vectors + kBlockVectors - 1) / kBlockVectors;
  for (int64_t panel = 0; panel < panels; panel++) {
    const int64_t first = vectors * panel / panels, width = vectors * (panel + 1) / panels - first;
    const auto block = width == 4 ? product_block<4> : width == 3 ? product_block<3> : width == 2 ? product_block<2> : product_block<1>;
    for (int64_t row = 0; row < rows; row += kBlockRows) {
      block({a.data + row * a.row, a.row, a.column}, depth, b + first * step, b_row, c + row * c_row + first * step, c_row, add);
    }
  }
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
