// Products of matrices that lie in cache, for kernels that work on tiles: C = A B or C += A B in f32, one register block of C at
// a time; and the packing of their operands. Include inside foreach_target files only, after math-inl.h.
#if defined(SIDETUNE_CPU_PRODUCT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SIDETUNE_CPU_PRODUCT_INL_H
#undef SIDETUNE_CPU_PRODUCT_INL_H
#else
#define SIDETUNE_CPU_PRODUCT_INL_H
#endif

#include <cstring>
#include <type_traits>

#include "product.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

// --- words: what operands are made of along the depth, an f32 number or a pair of bf16 numbers (the first in the lower half)

using Pair = uint32_t;
using U = hn::RebindToUnsigned<F>;
using Half = hn::Rebind<uint16_t, F>;

// Words that hold `count` numbers.
template <class Word>
constexpr int64_t words(int64_t count) {
  return std::is_same<Word, Pair>::value ? (count + 1) / 2 : count;
}

HWY_INLINE V load_words(const float* p) { return load(p); }
HWY_INLINE V repeat_word(const float* p) { return hn::Set(F(), *p); }
HWY_INLINE V multiply_add(V a, V b, V sum) { return hn::MulAdd(a, b, sum); }
// Numbers [i, i + lanes) of a row of numbers.
HWY_INLINE void store_numbers(V v, float* row, int64_t i) { store(v, row + i); }

// Pairs are for processors that multiply and sum a pair in one instruction, at twice the rate of f32. In assembler, because this
// Highway knows no target that has these instructions: ask has_pairs() before.
#undef SIDETUNE_PAIRS
#define SIDETUNE_PAIRS (HWY_TARGET == HWY_AVX3 && !HWY_COMPILER_MSVC)
#if SIDETUNE_PAIRS
HWY_INLINE bool has_pairs() { return __builtin_cpu_supports("avx512bf16"); }
HWY_INLINE hn::Vec<U> load_words(const Pair* p) { return hn::LoadU(U(), p); }
HWY_INLINE hn::Vec<U> repeat_word(const Pair* p) { return hn::Set(U(), *p); }
HWY_INLINE V multiply_add(hn::Vec<U> a, hn::Vec<U> b, V sum) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
  return sum;
}
HWY_INLINE hn::Vec<Half> narrow(V v) {
  hn::Vec<Half> half;
  asm("vcvtneps2bf16 %1, %0" : "=v"(half.raw) : "v"(v.raw));
  return half;
}
HWY_INLINE void store_numbers(V v, Pair* row, int64_t i) { hn::StoreU(narrow(v), Half(), reinterpret_cast<uint16_t*>(row) + i); }
HWY_INLINE void store_pairs(V first, V second, Pair* p) {
  const auto high = hn::ShiftLeft<16>(hn::PromoteTo(U(), narrow(second)));
  hn::StoreU(hn::Or(high, hn::PromoteTo(U(), narrow(first))), U(), p);
}
#endif

// --- packing of rows of f32 or bf16

// For A in a product along the columns: rows side by side. Rows from `rows` to `padded_rows` become zero.
template <class T>
void pack_rows(const T* from, int64_t from_row, int64_t rows, int64_t padded_rows, int64_t columns, float* to, int64_t to_row) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t row = 0; row < padded_rows; row++, from += from_row, to += to_row) {
    for (int64_t i = 0; i < columns; i += step) {
      store(row >= rows ? hn::Zero(F()) : i + step <= columns ? load(from + i) : load_tail(from + i, columns - i), to + i);
    }
  }
}
inline void pack_rows(const bf16_t* from, int64_t from_row, int64_t rows, int64_t padded_rows, int64_t columns, Pair* to,
                      int64_t to_row) {
  for (int64_t row = 0; row < padded_rows; row++, from += from_row, to += to_row) {
    if (row >= rows || columns % 2) memset(to, 0, words<Pair>(columns) * sizeof(Pair));
    if (row < rows) memcpy(to, from, columns * sizeof(bf16_t));
  }
}

// For B in a product along the rows: words reach over rows, columns lie side by side.
template <class T>
void pack_depth(const T* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row) {
  pack_rows(from, from_row, rows, rows, columns, to, to_row);
}
inline void pack_depth(const bf16_t* from, int64_t from_row, int64_t rows, int64_t columns, Pair* to, int64_t to_row) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t row = 0; row < rows; row += 2, from += 2 * from_row, to += to_row) {
    for (int64_t i = 0; i < columns; i += step) {
      const auto bits = [&](const bf16_t* x) HWY_ATTR {
        return hn::BitCast(U(), i + step <= columns ? load(x + i) : load_tail(x + i, columns - i));
      };
      const auto second = row + 1 < rows ? bits(from + from_row) : hn::Zero(U());
      hn::StoreU(hn::Or(hn::ShiftRight<16>(bits(from)), second), U(), to + i);
    }
  }
}

// to[column][row] = from[row][column] of words, in squares of 4×4: rows and columns reach to the next multiple of 4.
template <class Word>
void transpose(const Word* from, int64_t from_row, int64_t rows, int64_t columns, Word* to, int64_t to_row) {
  for (int64_t row = 0; row < rows; row += 4) {
    for (int64_t column = 0; column < columns; column += 4) {
      const Word* x = from + row * from_row + column;
      Word* y = to + column * to_row + row;
#if HWY_TARGET == HWY_SCALAR
      for (int i = 0; i < 16; i++) y[i / 4 * to_row + i % 4] = x[i % 4 * from_row + i / 4];
#else
      const hn::FixedTag<Word, 4> w;
      const auto a = hn::LoadU(w, x), b = hn::LoadU(w, x + from_row), c = hn::LoadU(w, x + 2 * from_row),
                 d = hn::LoadU(w, x + 3 * from_row);
      const auto ab = hn::InterleaveLower(w, a, b), cd = hn::InterleaveLower(w, c, d);
      const auto ab_upper = hn::InterleaveUpper(w, a, b), cd_upper = hn::InterleaveUpper(w, c, d);
      hn::StoreU(hn::ConcatLowerLower(w, cd, ab), w, y);
      hn::StoreU(hn::ConcatUpperUpper(w, cd, ab), w, y + to_row);
      hn::StoreU(hn::ConcatLowerLower(w, cd_upper, ab_upper), w, y + 2 * to_row);
      hn::StoreU(hn::ConcatUpperUpper(w, cd_upper, ab_upper), w, y + 3 * to_row);
#endif
    }
  }
}

// --- products

// A block of C in registers: rows × 4 vectors. With 32 registers 24 hold C, 6 the row's words of A and one the words of B; with
// 16 half of that.
constexpr int kBlockRows = HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3 ? 3 : 6;
constexpr int64_t kBlockVectors = 4;
static_assert(kPadRows % kBlockRows == 0 && hn::MaxLanes(F()) <= kPadColumns, "blocks end within the padding");

// A matrix with any two strides, so that a transposed operand needs no copy.
template <class Word>
struct Strided {
  const Word* data;
  int64_t row, column;
};

template <int Vectors, class Word>
void product_block(Strided<Word> a, int64_t depth, const Word* HWY_RESTRICT b, int64_t b_row, float* HWY_RESTRICT c,
                   int64_t c_row, bool add) {
  const int64_t step = static_cast<int64_t>(lanes());
  const Word* HWY_RESTRICT left = a.data;
  V sums[kBlockRows][Vectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kBlockRows; r++) {
    HWY_UNROLL(4)
    for (int v = 0; v < Vectors; v++) sums[r][v] = add ? load(c + r * c_row + v * step) : hn::Zero(F());
  }
  for (int64_t k = 0; k < depth; k++) {
    decltype(repeat_word(left)) numbers[kBlockRows];
    HWY_UNROLL(8)
    for (int r = 0; r < kBlockRows; r++) numbers[r] = repeat_word(left + r * a.row);
    HWY_UNROLL(4)
    for (int v = 0; v < Vectors; v++) {
      const auto right = load_words(b + v * step);
      HWY_UNROLL(8)
      for (int r = 0; r < kBlockRows; r++) sums[r][v] = multiply_add(numbers[r], right, sums[r][v]);
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

// C[rows, columns] = A[rows, depth] B[depth, columns], or +=; the depth is in words, rows and columns reach to the padding
// (product.h). Each number of C is a sum over the depth in order, wherever its block lies.
template <class Word>
void product(int64_t rows, int64_t depth, int64_t columns, Strided<Word> a, const Word* b, int64_t b_row, float* c, int64_t c_row,
             bool add) {
  const int64_t step = static_cast<int64_t>(lanes());
  const int64_t vectors = (columns + step - 1) / step, panels = (vectors + kBlockVectors - 1) / kBlockVectors;
  for (int64_t panel = 0; panel < panels; panel++) {
    const int64_t first = vectors * panel / panels, width = vectors * (panel + 1) / panels - first;
    const auto block = width == 4   ? product_block<4, Word>
                       : width == 3 ? product_block<3, Word>
                       : width == 2 ? product_block<2, Word>
                                    : product_block<1, Word>;
    for (int64_t row = 0; row < rows; row += kBlockRows) {
      block({a.data + row * a.row, a.row, a.column}, depth, b + first * step, b_row, c + row * c_row + first * step, c_row, add);
    }
  }
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
