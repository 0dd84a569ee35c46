#include "gemm.h"

#include "gemm_state.h"
#include "int8.h"
#include "parallel.h"

namespace sidetune::cpu {
namespace {

// Which implementation multiplies whole tiles; empty if none does.
std::string implementation(DType dtype) {
  const OneThread one;
  try {
    const memory::desc panel = any_panel(kTileRows, kTileColumns, dtype);
    return plan_tile(kTileRows, kTileColumns, kTileRows, dtype, false, panel).impl_info_str();
  } catch (const dnnl::error&) {
    return "";
  }
}

void convert(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count) {
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, count * size_of(to_dtype));
  } else if (from_dtype == DType::bf16) {
    const auto* source = static_cast<const uint16_t*>(from);
    auto* bits = static_cast<uint32_t*>(to);
    for (int64_t i = 0; i < count; i++) bits[i] = static_cast<uint32_t>(source[i]) << 16;
  } else {
    const auto* bits = static_cast<const uint32_t*>(from);
    auto* rounded = static_cast<uint16_t*>(to);
    for (int64_t i = 0; i < count; i++) {
      const bool is_nan = (bits[i] & 0x7FFFFFFF) > 0x7F800000;
      rounded[i] = static_cast<uint16_t>((is_nan ? bits[i] | 0x400000 : bits[i] + 0x7FFF + (bits[i] >> 16 & 1)) >> 16);
    }
  }
}

std::byte* offset(const void* data, int64_t count, DType dtype) {
  return const_cast<std::byte*>(static_cast<const std::byte*>(data)) + count * size_of(dtype);
}

// [0, count) in equal parts of at most `most`, the last one smaller.
struct Parts {
  int64_t count, parts, size;
  static Parts balanced(int64_t count, int64_t most) {
    const int64_t parts = (count + most - 1) / most;
    return {count, parts, (count + parts - 1) / parts};
  }
  static Parts fixed(int64_t count, int64_t size) { return {count, (count + size - 1) / size, size}; }
  int64_t begin(int64_t part) const { return part * size; }
  int64_t length(int64_t part) const { return std::min(size, count - part * size); }
};

constexpr int64_t kCachedPanelBytes = 768 << 10;
// Most tiles of a panel that a thread takes at a time, those of an image's tokens: a panel that comes from memory comes to one
// core.
constexpr int64_t kTilesDown = 4;

Parts panels_of(int64_t n) { return Parts::fixed(n, kTileColumns); }

// The team, each thread with buffers of at least these bytes and nothing staged.
std::vector<Worker>& prepare_team(Cpu& cpu, int64_t tile, int64_t scratchpad, int64_t stage) {
  std::vector<Worker>& workers = cpu.gemms->state->team();
  for (Worker& worker : workers) {
    worker.tile.reserve(tile);
    worker.scratchpad.reserve(scratchpad);
    worker.stage.reserve(stage);
    worker.staged = -1;
  }
  return workers;
}

// Points a tile's panels to `count` of them, one after the other. oneDNN clears a panel's padding (zeros already) whenever it is
// given the panel: here, not from many threads at once.
void point_panels(Tile& tile, const Panel& panel, const void* panels, int64_t count) {
  while (static_cast<int64_t>(tile.panels.size()) < count) tile.panels.push_back(view(panel.desc, nullptr));
  for (int64_t j = 0; j < count; j++) point(tile.panels[j], static_cast<const std::byte*>(panels) + j * panel.bytes);
}

// A product over nothing.
void finish_zeros(Cpu& cpu, const Parts& rows, const Parts& columns, const Finish& finish) {
  std::vector<Worker>& workers = prepare_team(cpu, rows.size * kTileColumns * sizeof(float), 0, 0);
  void* zeros = workers[0].tile.data();
  std::memset(zeros, 0, rows.size * kTileColumns * sizeof(float));
  for (int64_t i = 0; i < rows.parts; i++) {
    for (int64_t j = 0; j < columns.parts; j++) finish(zeros, rows.begin(i), rows.length(i), columns.begin(j), columns.length(j));
  }
}

bool is_staged(const Left& left, DType dtype) {
  return left.load || left.transposed || left.leading || left.dtype != left_dtype(dtype);
}

// The left side [count, k] (or [k, count]) of tiles in rows [row, row + count) of the product's m: where it is, or staged. A
// thread works along one row of tiles then, so what it staged last is kept.
const void* left_side(Worker& worker, const Left& left, int64_t m, int64_t k, DType dtype, int64_t row, int64_t count) {
  if (!is_staged(left, dtype)) return offset(left.data, row * k, dtype);
  void* stage = worker.stage.data();
  if (worker.staged == row) return stage;
  worker.staged = row;
  if (left.load) {
    left.load(row, count, stage);
  } else if (left.transposed) {
    const int64_t distance = left.leading ? left.leading : m;
    for (int64_t l = 0; l < k; l++) {
      convert(offset(left.data, l * distance + row, left.dtype), left.dtype, offset(stage, l * count, dtype), dtype, count);
    }
  } else if (left.leading) {
    for (int64_t i = 0; i < count; i++) {
      convert(offset(left.data, (row + i) * left.leading, left.dtype), left.dtype, offset(stage, i * k, dtype), dtype, k);
    }
  } else {
    convert(offset(left.data, row * k, left.dtype), left.dtype, stage, dtype, count * k);
  }
  return stage;
}

}  // namespace

GemmCache::GemmCache(int threads) : state(std::make_unique<State>(threads)) {}
GemmCache::~GemmCache() = default;

bool gemm_has_bf16() {
  // Where bf16 is only emulated ("gemm:jit"), widening to f32 is three times faster.
  static const bool native = [] {
    const std::string name = implementation(DType::bf16);
    for (const char* word : {"bf16", "amx", "vnni_2", "fp16", "sve", "acl"})
      if (name.find(word) != std::string::npos) return true;
    return false;
  }();
  return native;
}

int int8_levels() {
  // A sum of extremes, once: exact, or saturated.
  static const int levels = [] {
    const OneThread one;
    constexpr int64_t k = 64;
    std::vector<uint8_t> a(kTileRows * k, 255);
    std::vector<int8_t> plain(k * kTileColumns, 127);
    std::vector<int32_t> c(kTileRows * kTileColumns);
    const Panel panel = plan_panel(k, kTileColumns, DType::i8);
    const auto plan = plan_tile(kTileRows, kTileColumns, k, DType::i8, false, panel.desc);
    const memory::desc from = describe(k, kTileColumns, DType::i8, {kTileColumns, 1});
    const auto reorder = onednn::plan_reorder(engine(), from, panel.desc);
    Buffer packed, scratch;
    packed.reserve(panel.bytes);
    scratch.reserve(std::max(plan.scratchpad_desc().get_size(), reorder.scratchpad_desc().get_size()));
    const memory b = view(panel.desc, packed.data());
    dnnl::stream stream(engine());
    execute(dnnl::reorder(reorder), stream,
            {{DNNL_ARG_FROM, view(from, plain.data()).get()},
             {DNNL_ARG_TO, b.get()},
             {DNNL_ARG_SCRATCHPAD, view(reorder.scratchpad_desc(), scratch.data()).get()}});
    execute(dnnl::matmul(plan), stream,
            {{DNNL_ARG_SRC, view(plan.src_desc(), a.data()).get()},
             {DNNL_ARG_WEIGHTS, b.get()},
             {DNNL_ARG_DST, view(plan.dst_desc(), c.data()).get()},
             {DNNL_ARG_SCRATCHPAD, view(plan.scratchpad_desc(), scratch.data()).get()}});
    const int32_t exact = 255 * 127 * k;
    return std::all_of(c.begin(), c.end(), [&](int32_t sum) { return sum == exact; }) ? 255 : 127;
  }();
  return levels;
}

std::string gemm_description() {
  return "oneDNN " + onednn::version() + ", " + implementation(gemm_has_bf16() ? DType::bf16 : DType::f32);
}

DType operand_dtype(DType dtype) { return dtype == DType::bf16 && !gemm_has_bf16() ? DType::f32 : dtype; }

void multiply(Cpu& cpu, const Product& product, const Left& left, const void* panels, const Finish& finish) {
  const int64_t m = product.m, n = product.n, k = product.k;
  if (m == 0 || n == 0) return;
  const Parts rows = Parts::balanced(m, kTileRows), columns = panels_of(n);
  if (k == 0) return finish_zeros(cpu, rows, columns, finish);
  const OneThread one;
  GemmCache::State& state = *cpu.gemms->state;
  const DType dtype = operand_dtype(product.dtype);
  // Up to four shapes of tile, by "is the last one" along each axis.
  std::shared_ptr<Tile> tiles[2][2];
  int64_t scratchpad = 0;
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < 2; j++) {
      const int64_t height = rows.length(i ? rows.parts - 1 : 0), width = columns.length(j ? columns.parts - 1 : 0);
      tiles[i][j] = state.tile(height, width, k, dtype, left.transposed);
      scratchpad = std::max(scratchpad, tiles[i][j]->scratchpad_bytes);
    }
  }
  const bool staged = is_staged(left, dtype);
  const int64_t stage = staged ? rows.size * k * size_of(left_dtype(dtype)) : 0;
  std::vector<Worker>& workers = prepare_team(cpu, rows.size * kTileColumns * sizeof(float), scratchpad, stage);
  for (size_t thread = 0; thread < workers.size(); thread++) {
    for (const auto& shape : tiles) {
      for (const auto& tile : shape) {
        point(tile->operands[thread].to, workers[thread].tile.data());
        point(tile->operands[thread].scratchpad, workers[thread].scratchpad.data());
      }
    }
  }
  const auto panel = state.panel(k, columns.length(0), dtype);
  // A last panel of another shape is the first of its tile's.
  const int64_t alike = tiles[0][0] == tiles[0][1] ? columns.parts : columns.parts - 1;
  point_panels(*tiles[0][0], *panel, panels, alike);
  if (alike < columns.parts) {
    const void* last = static_cast<const std::byte*>(panels) + alike * panel->bytes;
    point_panels(*tiles[0][1], *state.panel(k, columns.length(alike), dtype), last, 1);
  }
  // Down the rows of one panel after the other, where a panel stays in the cache of a core and rows need no staging: less traffic
  // in the cache that cores share. Else along the panels.
  const bool down = !staged && panel->bytes <= kCachedPanelBytes;

  Failure failure;
  const auto multiply_tile = [&](int64_t item) {
    failure.guard([&] {
      const int64_t i = down ? item % rows.parts : item / columns.parts, j = down ? item / rows.parts : item % columns.parts;
      const int64_t row = rows.begin(i), count = rows.length(i);
      const int thread = omp_get_thread_num();
      Worker& worker = workers[thread];
      const Tile& tile = *tiles[i == rows.parts - 1][j == columns.parts - 1];
      const Operands& operands = tile.operands[thread];
      const memory& right = j < alike ? tiles[0][0]->panels[j] : tiles[0][1]->panels[0];
      point(operands.from, left_side(worker, left, m, k, dtype, row, count));
      execute(tile.primitive, worker.stream,
              {{DNNL_ARG_SRC, operands.from.get()},
               {DNNL_ARG_WEIGHTS, right.get()},
               {DNNL_ARG_DST, operands.to.get()},
               {DNNL_ARG_SCRATCHPAD, operands.scratchpad.get()}});
      finish(worker.tile.data(), row, count, columns.begin(j), columns.length(j));
    });
  };
  parallel_items(cpu, rows.parts * columns.parts, multiply_tile, down ? std::min(rows.parts, kTilesDown) : 1);
  failure.rethrow();
}

int64_t panel_bytes(Cpu& cpu, int64_t k, int64_t n, DType dtype) {
  if (k == 0 || n == 0) return 0;
  GemmCache::State& state = *cpu.gemms->state;
  const DType type = operand_dtype(dtype);
  const Parts parts = panels_of(n);
  return (parts.parts - 1) * state.panel(k, parts.length(0), type)->bytes +
         state.panel(k, parts.length(parts.parts - 1), type)->bytes;
}

namespace {

void move_panels(Cpu& cpu, const Right& matrix, DType dtype, const void* panels, bool packing) {
  const int64_t k = matrix.k, n = matrix.n;
  if (k == 0 || n == 0) return;
  const OneThread one;
  GemmCache::State& state = *cpu.gemms->state;
  const Parts parts = panels_of(n);
  // oneDNN has no fast bf16 reorder where it has no bf16 product: there we widen or round, in a copy of the panel's part of the
  // matrix.
  const bool staged = matrix.dtype != dtype && !gemm_has_bf16();
  const int64_t distance = matrix.transposed ? k : n;
  std::shared_ptr<Operation> reorders[2];  // the last one for the last panel
  int64_t scratchpad_bytes = 0;
  for (int i = 0; i < 2; i++) {
    const int64_t columns = parts.length(i ? parts.parts - 1 : 0);
    const int64_t apart = staged && !matrix.transposed ? columns : distance;
    reorders[i] = state.reorder(k, columns, dtype, staged ? dtype : matrix.dtype, apart, matrix.transposed, packing);
    scratchpad_bytes = std::max(scratchpad_bytes, reorders[i]->scratchpad_bytes);
  }
  std::vector<Worker>& workers = prepare_team(cpu, 0, scratchpad_bytes, staged ? k * parts.length(0) * size_of(dtype) : 0);
  const int64_t panel_distance = state.panel(k, parts.length(0), dtype)->bytes;

  Failure failure;
  parallel_items(cpu, parts.parts, [&](int64_t part) {
    failure.guard([&] {
      const int thread = omp_get_thread_num();
      Worker& worker = workers[thread];
      const Operation& reorder = *reorders[part == parts.parts - 1];
      const Operands& operands = reorder.operands[thread];
      const int64_t columns = parts.length(part);
      const int64_t lines = matrix.transposed ? columns : k, length = matrix.transposed ? k : columns;
      std::byte* region = offset(matrix.data, parts.begin(part) * (matrix.transposed ? k : 1), matrix.dtype);
      std::byte* plain = staged ? static_cast<std::byte*>(worker.stage.data()) : region;
      for (int64_t i = 0; staged && packing && i < lines; i++) {
        convert(offset(region, i * distance, matrix.dtype), matrix.dtype, offset(plain, i * length, dtype), dtype, length);
      }
      const void* packed = static_cast<const std::byte*>(panels) + part * panel_distance;
      point(operands.from, packing ? plain : packed);
      point(operands.to, packing ? packed : plain);
      point(operands.scratchpad, worker.scratchpad.data());
      execute(reorder.primitive, worker.stream,
              {{DNNL_ARG_FROM, operands.from.get()},
               {DNNL_ARG_TO, operands.to.get()},
               {DNNL_ARG_SCRATCHPAD, operands.scratchpad.get()}});
      for (int64_t i = 0; staged && !packing && i < lines; i++) {
        convert(offset(plain, i * length, dtype), dtype, offset(region, i * distance, matrix.dtype), matrix.dtype, length);
      }
    });
  });
  failure.rethrow();
}

}  // namespace

void pack(Cpu& cpu, const Right& from, DType dtype, void* panels) { move_panels(cpu, from, operand_dtype(dtype), panels, true); }
void unpack(Cpu& cpu, const void* panels, DType dtype, const Right& to) {
  move_panels(cpu, to, operand_dtype(dtype), panels, false);
}

void add_transposed_product(Cpu& cpu, const Product& product, const Left& a, const Right& b, float* c, Workspace scratch) {
  pack(cpu, b, product.dtype, scratch.data);
  multiply(cpu, product, a, scratch.data, [&](const void* tile, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    for (int64_t r = 0; r < rows; r++) {
      float* to = c + (row + r) * product.n + column;
      const float* from = static_cast<const float*>(tile) + r * columns;
      for (int64_t i = 0; i < columns; i++) to[i] += from[i];
    }
  });
}

int64_t transposed_product_bytes(Cpu& cpu, int64_t rows, int64_t n, DType dtype) {
  const int64_t full = std::min(rows, kGradientRows), last = rows % kGradientRows;
  return std::max(panel_bytes(cpu, full, n, dtype), panel_bytes(cpu, last, n, dtype));
}

int64_t packed_bytes(Cpu& cpu, int64_t rows, int64_t columns, DType dtype, Layout layout) {
  if (layout == Layout::plain) return rows * columns * size_of(dtype);
  if (dtype == DType::i8) return Int8Weight::bytes(cpu, rows, columns);
  const Right right = right_side(nullptr, rows, columns, dtype, layout);
  return panel_bytes(cpu, right.k, right.n, dtype);
}

Right right_side(void* weight, int64_t O, int64_t I, DType dtype, Layout side) {
  return side == Layout::packed ? Right{weight, dtype, I, O, true} : Right{weight, dtype, O, I, false};
}

int64_t weight_scratch(Cpu& cpu, const Tensor& weight, Layout side, DType dtype) {
  return weight.layout == Layout::plain ? packed_bytes(cpu, weight.dim(0), weight.dim(1), dtype, side) : 0;
}

const void* weight_panels(Cpu& cpu, const Tensor& weight, Layout side, DType dtype, Workspace& scratch) {
  if (weight.layout != Layout::plain) return weight.data;
  void* panels = scratch.take<std::byte>(weight_scratch(cpu, weight, side, dtype));
  pack(cpu, right_side(weight.data, weight.dim(0), weight.dim(1), weight.dtype, side), dtype, panels);
  return panels;
}

}  // namespace sidetune::cpu
