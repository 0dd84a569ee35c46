// Matrix products c[m, n] = a[m, k] · b[k, n] with f32 sums, through oneDNN, and the packed form in which b is kept.
//
// oneDNN computes tiles only, each of at most kTileRows × kTileColumns numbers and planned for one thread; our own OpenMP team
// deals the tiles out. A tile is f32 in a buffer that stays in the cache, and the caller's `finish` takes it from there: bias,
// GELU, residual, rounding, += are one pass without traffic of their own. The grid of tiles depends on the shape alone, so
// results do not depend on the number of threads, bit for bit. (oneDNN's own division of labour does not promise that: it splits
// k among threads where m and n are small, and differently on each kind of processor.) Cost against one oneDNN call with all
// threads at ViT-B/16 shapes: none in f32, up to 5 % in bf16 at k = 768.
//
// b is kept in panels of kTileColumns columns, one after the other, each in the order that oneDNN likes best for a tile of
// kTileRows rows.
//
// bf16: a and b are bf16 where the processor multiplies bf16 (AVX512_BF16, AMX, AVX2-VNNI-2, ...). Elsewhere operands of bf16
// products are widened: panels hold f32 (twice the memory), f32 weights are not rounded, and rows of a are widened tile by tile.
// Right, and as fast as f32. DNNL_MAX_CPU_ISA=AVX2 in the environment shows it anywhere.
//
// i8: a is u8, b is i8, and tiles are i32. How f32 becomes these and back is in int8.h.
#pragma once

#include <memory>
#include <string>

#include "backend.h"
#include "function_ref.h"

namespace sidetune::cpu {

constexpr int64_t kTileRows = 64, kTileColumns = 192;

// oneDNN's primitives by shape, with what each thread runs them on, and the buffers of the team that runs them: a product whose
// shapes have been there before takes no memory. One per device, for its number of threads; safe from the caller's and the
// stream's thread at once.
class GemmCache {
 public:
  explicit GemmCache(int threads);
  ~GemmCache();

  struct State;
  const std::unique_ptr<State> state;
};

// "oneDNN 2.6.3, brg:avx512_core_bf16"
std::string gemm_description();
// Whether bf16 products run in bf16.
bool gemm_has_bf16();
// The largest number that `a` may hold in an i8 product: 255, or 127 where the processor sums pairs of products in 16 bits, which
// larger ones overflow (it has no VNNI).
int int8_levels();
// The dtype that panels have in memory: f32 for bf16 where operands are widened.
DType operand_dtype(DType dtype);

struct Product {
  int64_t m, n, k;
  DType dtype;  // of a and b as the caller means them
};

// The left side. Plain and row-major [m, k]; or [k, m] when transposed; a window of wider rows, `leading` numbers apart, is
// copied tile by tile. Or made on demand: `load` writes rows [row, row + rows) as [rows, k] of operand_dtype, from any thread,
// more than once.
struct Left {
  const void* data = nullptr;
  DType dtype = DType::f32;
  bool transposed = false;
  int64_t leading = 0;  // 0: dense
  FunctionRef<void(int64_t row, int64_t rows, void* to)> load = {};
};

// Takes the tile [rows, columns] of c that begins at (row, column): float, or int32_t in an i8 product. Called from any thread,
// once per tile.
using Finish = FunctionRef<void(const void* tile, int64_t row, int64_t rows, int64_t column, int64_t columns)>;

void multiply(Cpu& cpu, const Product& product, const Left& left, const void* panels, const Finish& finish);

// A plain matrix seen as b[k, n]: row-major, or the transpose of a row-major [n, k], such as a weight [O, I] in x Wᵀ.
struct Right {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t k = 0, n = 0;
  bool transposed = false;
};

int64_t panel_bytes(Cpu& cpu, int64_t k, int64_t n, DType dtype);
void pack(Cpu& cpu, const Right& from, DType dtype, void* panels);
void unpack(Cpu& cpu, const void* panels, DType dtype, const Right& to);

// c[m, n] += aᵀ b for plain a[k, m] and b[k, n] of one dtype; the sum of a weight's gradient over k rows. Callers bound k by
// walking in steps of kGradientRows: b is packed into scratch first.
constexpr int64_t kGradientRows = 2048;
void add_transposed_product(Cpu& cpu, const Product& product, const Left& a, const Right& b, float* c, Workspace scratch);
int64_t transposed_product_bytes(Cpu& cpu, int64_t rows, int64_t n, DType dtype);

// Bytes of a weight [rows, columns] in a packed layout.
int64_t packed_bytes(Cpu& cpu, int64_t rows, int64_t columns, DType dtype, Layout layout);

// A weight [O, I] as b of x Wᵀ (side packed) or of g W (side packed_transposed): plain numbers, seen so.
Right right_side(void* weight, int64_t O, int64_t I, DType dtype, Layout side);
// Its panels for a product of `dtype`: the weight itself if it is packed, else packed into scratch of that many bytes.
const void* weight_panels(Cpu& cpu, const Tensor& weight, Layout side, DType dtype, Workspace& scratch);
int64_t weight_scratch(Cpu& cpu, const Tensor& weight, Layout side, DType dtype);

}  // namespace sidetune::cpu
