#include "gemm.h"

#include <omp.h>

#include <array>
#include <cstdlib>
#include <exception>
#include <list>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "onednn_compat.h"
#include "parallel.h"

namespace sidetune::cpu {
namespace {

using onednn::memory;

// oneDNN plans for, and runs with, as many threads as OpenMP would give it: one, as long as this lives.
struct OneThread {
  const int before = omp_get_max_threads();
  OneThread() { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before); }
};

// Never destroyed: stream threads may outlive the statics of this library.
const dnnl::engine& engine() {
  static const dnnl::engine* engine = [] {
    onednn::limit_primitive_cache(8);
    return new dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return *engine;
}

memory::data_type type_of(DType dtype) { return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32; }

memory::desc plain(int64_t rows, int64_t columns, DType dtype, int64_t row_stride, int64_t column_stride) {
  return {{rows, columns}, type_of(dtype), memory::dims{row_stride, column_stride}};
}

dnnl::matmul::primitive_desc plan_tile(int64_t rows, int64_t columns, int64_t k, DType dtype, bool transposed, const memory::desc& weights) {
  const memory::desc src = transposed ? plain(rows, k, dtype, 1, rows) : plain(rows, k, dtype, k, 1);
  return onednn::plan_matmul(engine(), src, weights, plain(rows, columns, DType::f32, columns, 1));
}

// Which implementation multiplies whole tiles; empty if none does.
std::string implementation(DType dtype) {
  const OneThread one;
  try {
    const memory::desc any({kTileRows, kTileColumns}, type_of(dtype), memory::format_tag::any);
    return plan_tile(kTileRows, kTileColumns, kTileRows, dtype, false, any).impl_info_str();
  } catch (const dnnl::error&) {
    return "";
  }
}

using Key = std::array<int64_t, 7>;

// The most recently used values by key.
template <class Value>
class Recent {
 public:
  explicit Recent(size_t capacity) : capacity_(capacity) {}

  template <class Make>
  std::shared_ptr<const Value> get(const Key& key, const Make& make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = places_.find(key);
    if (found != places_.end()) {
      values_.splice(values_.begin(), values_, found->second);
      return found->second->second;
    }
    values_.emplace_front(key, std::make_shared<const Value>(make()));
    places_[key] = values_.begin();
    if (values_.size() > capacity_) {
      places_.erase(values_.back().first);
      values_.pop_back();
    }
    return places_[key]->second;
  }

 private:
  using Entry = std::pair<Key, std::shared_ptr<const Value>>;
  const size_t capacity_;
  std::mutex mutex_;
  std::list<Entry> values_;
  std::map<Key, typename std::list<Entry>::iterator> places_;
};

// How one panel [k, columns] lies in memory.
struct Panel {
  memory::desc desc;
  int64_t bytes;  // whole cache lines
};

struct Tile {
  memory::desc src, dst, scratchpad;
  dnnl::matmul primitive;
};

struct Reorder {
  memory::desc from, to, scratchpad;
  dnnl::reorder primitive;
};

// Memory that grows to what was asked for and stays.
class Buffer {
 public:
  ~Buffer() { std::free(data_); }
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

  void reserve(int64_t bytes) {
    if (bytes <= bytes_) return;
    std::free(data_);
    bytes_ = (bytes + 4095) / 4096 * 4096;
    data_ = std::aligned_alloc(4096, bytes_);
    if (!data_) bytes_ = 0, throw std::bad_alloc();
  }
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// One of the team's threads.
struct Worker {
  dnnl::stream stream{engine()};
  Buffer tile, scratchpad, stage;
  int64_t staged = -1;  // the row of tiles whose left side is in `stage`
};

// The first exception of a parallel region, to be thrown behind it.
class Failure {
 public:
  template <class Body>
  void guard(const Body& body) noexcept {
    try {
      body();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!first_) first_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

void execute(const dnnl::primitive& primitive, const dnnl::stream& stream, std::initializer_list<std::pair<int, dnnl_memory_t>> memories) {
  std::array<dnnl_exec_arg_t, 4> arguments;
  int count = 0;
  for (const auto& [name, memory] : memories) arguments[count++] = {name, memory};
  dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive.get(), stream.get(), count, arguments.data()), "could not execute a primitive");
}

memory view(const memory::desc& desc, const void* data) { return {desc, engine(), const_cast<void*>(data)}; }

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

const std::byte* offset(const void* data, int64_t count, DType dtype) { return static_cast<const std::byte*>(data) + count * size_of(dtype); }

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

Parts panels_of(int64_t n) { return Parts::fixed(n, kTileColumns); }

}  // namespace

struct GemmCache::State {
  Recent<Panel> panels{256};
  Recent<Tile> tiles{256};
  Recent<Reorder> reorders{128};
  std::vector<Worker> workers;  // of the stream's thread alone

  std::shared_ptr<const Panel> panel(int64_t k, int64_t columns, DType dtype) {
    return panels.get({k, columns, static_cast<int64_t>(dtype)}, [&] {
      const OneThread one;
      const memory::desc any({k, columns}, type_of(dtype), memory::format_tag::any);
      const memory::desc desc = plan_tile(kTileRows, columns, k, dtype, false, any).weights_desc();
      return Panel{desc, (static_cast<int64_t>(desc.get_size()) + 63) / 64 * 64};
    });
  }

  std::shared_ptr<const Tile> tile(int64_t rows, int64_t columns, int64_t k, DType dtype, bool transposed) {
    return tiles.get({rows, columns, k, static_cast<int64_t>(dtype), transposed}, [&] {
      const auto plan = plan_tile(rows, columns, k, dtype, transposed, panel(k, columns, dtype)->desc);
      return Tile{plan.src_desc(), plan.dst_desc(), plan.scratchpad_desc(), dnnl::matmul(plan)};
    });
  }

  std::shared_ptr<const Reorder> reorder(const memory::desc& from, const memory::desc& to, const Key& key) {
    return reorders.get(key, [&] {
      dnnl::primitive_attr attributes;
      attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
      const dnnl::reorder::primitive_desc plan(engine(), from, engine(), to, attributes);
      return Reorder{from, to, plan.scratchpad_desc(), dnnl::reorder(plan)};
    });
  }

  std::vector<Worker>& team(int threads) {
    while (static_cast<int>(workers.size()) < threads) workers.emplace_back();
    return workers;
  }

  // Calls move(worker, plain region, plain desc, panel, panel data) for each panel. The region [k, columns] of the plain matrix is contiguous along one axis
  // and `distance` numbers apart along the other.
  template <class Move>
  void for_each_panel(Cpu& cpu, const Right& matrix, DType dtype, const void* panels, const Move& move) {
    if (matrix.k == 0 || matrix.n == 0) return;
    const OneThread one;
    const Parts parts = panels_of(matrix.n);
    const auto full = panel(matrix.k, parts.length(0), dtype), last = panel(matrix.k, parts.length(parts.parts - 1), dtype);
    std::vector<Worker>& workers = team(cpu.threads);
    Failure failure;
    parallel_items(cpu, parts.parts, [&](int64_t part) {
      failure.guard([&] {
        const int64_t distance = matrix.transposed ? matrix.k : matrix.n;
        const std::byte* region = offset(matrix.data, parts.begin(part) * (matrix.transposed ? distance : 1), matrix.dtype);
        move(workers[omp_get_thread_num()], const_cast<std::byte*>(region), parts.length(part), part == parts.parts - 1 ? *last : *full,
             static_cast<const std::byte*>(panels) + part * full->bytes);
      });
    });
    failure.rethrow();
  }

  void move_panel(Worker& worker, const Right& matrix, void* region, int64_t columns, DType dtype, const Panel& panel, const void* packed, bool packing) {
    const int64_t k = matrix.k;
    // oneDNN has no fast bf16 reorder where it has no bf16 product; there the region is widened or rounded by us on the way.
    const bool staged = matrix.dtype != dtype && !gemm_has_bf16();
    const int64_t lines = matrix.transposed ? columns : k, length = matrix.transposed ? k : columns, distance = matrix.transposed ? k : matrix.n;
    const int64_t reach = staged ? length : distance;
    const DType plain_dtype = staged ? dtype : matrix.dtype;
    const memory::desc desc = matrix.transposed ? plain(k, columns, plain_dtype, 1, reach) : plain(k, columns, plain_dtype, reach, 1);
    const Key key = {k, columns, reach, static_cast<int64_t>(plain_dtype), static_cast<int64_t>(dtype), matrix.transposed, packing};
    const auto plan = packing ? reorder(desc, panel.desc, key) : reorder(panel.desc, desc, key);
    worker.scratchpad.reserve(plan->scratchpad.get_size());
    void* source = region;
    if (staged) {
      worker.stage.reserve(lines * length * size_of(dtype));
      worker.staged = -1;
      source = worker.stage.data();
    }
    const auto line = [&](void* data, DType type, int64_t i, int64_t apart) { return const_cast<std::byte*>(offset(data, i * apart, type)); };
    if (staged && packing) {
      for (int64_t i = 0; i < lines; i++) convert(line(region, matrix.dtype, i, distance), matrix.dtype, line(source, dtype, i, length), dtype, length);
    }
    const memory from = view(plan->from, packing ? source : packed), to = view(plan->to, packing ? packed : source);
    const memory scratchpad = view(plan->scratchpad, worker.scratchpad.data());
    execute(plan->primitive, worker.stream,
            {{DNNL_ARG_FROM, from.get()}, {DNNL_ARG_TO, to.get()}, {DNNL_ARG_SCRATCHPAD, scratchpad.get()}});
    if (staged && !packing) {
      for (int64_t i = 0; i < lines; i++) convert(line(source, dtype, i, length), dtype, line(region, matrix.dtype, i, distance), matrix.dtype, length);
    }
  }
};

GemmCache::GemmCache() : state(std::make_unique<State>()) {}
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

std::string gemm_description() { return "oneDNN " + onednn::version() + ", " + implementation(gemm_has_bf16() ? DType::bf16 : DType::f32); }

DType operand_dtype(DType dtype) { return dtype == DType::bf16 && gemm_has_bf16() ? DType::bf16 : DType::f32; }

void multiply(Cpu& cpu, const Product& product, const Left& left, const void* panels, const Finish& finish) {
  const int64_t m = product.m, n = product.n, k = product.k;
  if (m == 0 || n == 0) return;
  const OneThread one;
  GemmCache::State& state = *cpu.gemms->state;
  const DType dtype = operand_dtype(product.dtype);
  const Parts rows = Parts::balanced(m, kTileRows), columns = panels_of(n);
  // Up to four shapes of tile, by "is the last one" along each axis.
  std::shared_ptr<const Tile> tiles[2][2];
  int64_t scratchpad_bytes = 0;
  for (int i = 0; i < 2 && k > 0; i++) {
    for (int j = 0; j < 2; j++) {
      tiles[i][j] = state.tile(rows.length(i ? rows.parts - 1 : 0), columns.length(j ? columns.parts - 1 : 0), k, dtype, left.transposed);
      scratchpad_bytes = std::max<int64_t>(scratchpad_bytes, tiles[i][j]->scratchpad.get_size());
    }
  }
  const bool staged = left.load || left.transposed || left.dtype != dtype;
  std::vector<Worker>& workers = state.team(cpu.threads);
  for (Worker& worker : workers) {
    worker.tile.reserve(rows.size * kTileColumns * sizeof(float));
    worker.scratchpad.reserve(scratchpad_bytes);
    if (staged) worker.stage.reserve(rows.size * k * size_of(dtype));
    worker.staged = -1;
  }
  // oneDNN clears a panel's padding (zeros already) whenever it is given the panel: here, not from many threads at once.
  std::vector<memory> right;
  for (int64_t j = 0; j < columns.parts && k > 0; j++) {
    const auto panel = state.panel(k, columns.length(j), dtype);
    right.push_back(view(panel->desc, static_cast<const std::byte*>(panels) + j * state.panel(k, columns.length(0), dtype)->bytes));
  }

  const auto left_side = [&](Worker& worker, int64_t i) -> const void* {
    const int64_t row = rows.begin(i), count = rows.length(i);
    if (!staged) return offset(left.data, row * k, dtype);
    if (worker.staged == i) return worker.stage.data();
    worker.staged = i;
    if (left.load) {
      left.load(row, count, worker.stage.data());
    } else if (left.transposed) {
      auto* to = static_cast<std::byte*>(worker.stage.data());
      for (int64_t l = 0; l < k; l++) convert(offset(left.data, l * m + row, left.dtype), left.dtype, to + l * count * size_of(dtype), dtype, count);
    } else {
      convert(offset(left.data, row * k, left.dtype), left.dtype, worker.stage.data(), dtype, count * k);
    }
    return worker.stage.data();
  };

  Failure failure;
  parallel_items(cpu, rows.parts * columns.parts, [&](int64_t item) {
    failure.guard([&] {
      const int64_t i = item / columns.parts, j = item % columns.parts;
      Worker& worker = workers[omp_get_thread_num()];
      auto* numbers = static_cast<float*>(worker.tile.data());
      if (k == 0) {
        std::memset(numbers, 0, rows.length(i) * columns.length(j) * sizeof(float));
      } else {
        const Tile& tile = *tiles[i == rows.parts - 1][j == columns.parts - 1];
        const memory src = view(tile.src, left_side(worker, i)), dst = view(tile.dst, numbers);
        const memory scratchpad = view(tile.scratchpad, worker.scratchpad.data());
        execute(tile.primitive, worker.stream,
                {{DNNL_ARG_SRC, src.get()}, {DNNL_ARG_WEIGHTS, right[j].get()}, {DNNL_ARG_DST, dst.get()}, {DNNL_ARG_SCRATCHPAD, scratchpad.get()}});
      }
      finish(numbers, rows.begin(i), rows.length(i), columns.begin(j), columns.length(j));
    });
  });
  failure.rethrow();
}

int64_t panel_bytes(Cpu& cpu, int64_t k, int64_t n, DType dtype) {
  if (k == 0 || n == 0) return 0;
  GemmCache::State& state = *cpu.gemms->state;
  const DType type = operand_dtype(dtype);
  const Parts parts = panels_of(n);
  return (parts.parts - 1) * state.panel(k, parts.length(0), type)->bytes + state.panel(k, parts.length(parts.parts - 1), type)->bytes;
}

void pack(Cpu& cpu, const Right& from, DType dtype, void* panels) {
  GemmCache::State& state = *cpu.gemms->state;
  const DType type = operand_dtype(dtype);
  state.for_each_panel(cpu, from, type, panels, [&](Worker& worker, void* region, int64_t columns, const Panel& panel, const void* packed) {
    state.move_panel(worker, from, region, columns, type, panel, packed, true);
  });
}

void unpack(Cpu& cpu, const void* panels, DType dtype, const Right& to) {
  GemmCache::State& state = *cpu.gemms->state;
  const DType type = operand_dtype(dtype);
  state.for_each_panel(cpu, to, type, panels, [&](Worker& worker, void* region, int64_t columns, const Panel& panel, const void* packed) {
    state.move_panel(worker, to, region, columns, type, panel, packed, false);
  });
}

void add_transposed_product(Cpu& cpu, const Product& product, const Left& a, const Right& b, float* c, Workspace scratch) {
  pack(cpu, b, product.dtype, scratch.data);
  multiply(cpu, product, a, scratch.data, [&](const float* tile, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    for (int64_t r = 0; r < rows; r++) {
      float* to = c + (row + r) * product.n + column;
      const float* from = tile + r * columns;
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
  return layout == Layout::packed ? panel_bytes(cpu, columns, rows, dtype) : panel_bytes(cpu, rows, columns, dtype);
}

}  // namespace sidetune::cpu
