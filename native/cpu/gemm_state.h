// What gemm.cc keeps between calls: oneDNN's primitives by shape, and the buffers of the threads that run them.
#pragma once

#include <omp.h>

#include <array>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <list>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "gemm.h"
#include "onednn_compat.h"

namespace sidetune::cpu {

using onednn::memory;

// oneDNN plans for, and runs with, as many threads as OpenMP would give it: one, as long as this lives.
struct OneThread {
  const int before = omp_get_max_threads();
  OneThread() { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before); }
};

// Never destroyed: stream threads may outlive the statics of this library.
inline const dnnl::engine& engine() {
  static const dnnl::engine* engine = [] {
    onednn::limit_primitive_cache(8);
    return new dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return *engine;
}

inline memory::desc describe(int64_t rows, int64_t columns, DType dtype, memory::dims strides) {
  return {{rows, columns}, onednn::type_of(dtype), strides};
}
inline memory view(const memory::desc& desc, const void* data) { return {desc, engine(), const_cast<void*>(data)}; }
inline void point(const memory& operand, const void* data) { operand.set_data_handle(const_cast<void*>(data)); }

// The dtypes of a tile's left side and result, by that of its panel.
inline DType left_dtype(DType panel) { return panel == DType::i8 ? DType::u8 : panel; }
inline DType result_dtype(DType panel) { return panel == DType::i8 ? DType::i32 : DType::f32; }

// A tile [rows, columns]. The left side is [rows, k], or [k, rows] when transposed.
inline dnnl::matmul::primitive_desc plan_tile(int64_t rows, int64_t columns, int64_t k, DType dtype, bool transposed,
                                              const memory::desc& panel) {
  const memory::desc left = describe(rows, k, left_dtype(dtype), transposed ? memory::dims{1, rows} : memory::dims{k, 1});
  return onednn::plan_matmul(engine(), left, panel, describe(rows, columns, result_dtype(dtype), {columns, 1}));
}
inline memory::desc any_panel(int64_t k, int64_t columns, DType dtype) {
  return {{k, columns}, onednn::type_of(dtype), memory::format_tag::any};
}

// How one panel [k, columns] lies in memory, in whole cache lines.
struct Panel {
  memory::desc desc;
  int64_t bytes;
};
inline Panel plan_panel(int64_t k, int64_t columns, DType dtype) {
  const memory::desc desc = plan_tile(kTileRows, columns, k, dtype, false, any_panel(k, columns, dtype)).weights_desc();
  return {desc, (static_cast<int64_t>(desc.get_size()) + 63) / 64 * 64};
}

// What one thread runs a primitive on.
struct Operands {
  memory from, to, scratchpad;
};

// A primitive with its operands for each thread, made once: a call only points them to its numbers. The stream thread's alone,
// and its team's.
struct Operation {
  dnnl::primitive primitive;
  int64_t scratchpad_bytes;
  std::vector<Operands> operands;  // by thread

  template <class Plan>
  Operation(const dnnl::primitive& primitive, const Plan& plan, int threads)
      : primitive(primitive), scratchpad_bytes(plan.scratchpad_desc().get_size()) {
    for (int thread = 0; thread < threads; thread++) {
      operands.push_back({view(plan.src_desc(), nullptr), view(plan.dst_desc(), nullptr), view(plan.scratchpad_desc(), nullptr)});
    }
  }
};

struct Tile : Operation {
  using Operation::Operation;
  std::vector<memory> panels;  // of a product that has so many
};

inline void execute(const dnnl::primitive& primitive, const dnnl::stream& stream,
                    std::initializer_list<std::pair<int, dnnl_memory_t>> memories) {
  std::array<dnnl_exec_arg_t, 4> arguments;
  int count = 0;
  for (const auto& [name, memory] : memories) arguments[count++] = {name, memory};
  dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive.get(), stream.get(), count, arguments.data()),
                          "oneDNN could not execute a primitive");
}

using Key = std::array<int64_t, 7>;

// The most recently used values by key.
template <class Value>
class Recent {
 public:
  explicit Recent(size_t capacity) : capacity_(capacity) {}

  template <class Make>
  std::shared_ptr<Value> get(const Key& key, const Make& make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = places_.find(key);
    if (found != places_.end()) {
      values_.splice(values_.begin(), values_, found->second);
      return found->second->second;
    }
    const auto value = std::make_shared<Value>(make());
    values_.emplace_front(key, value);
    places_[key] = values_.begin();
    if (values_.size() > capacity_) {
      places_.erase(values_.back().first);
      values_.pop_back();
    }
    return value;
  }

 private:
  using Entry = std::pair<Key, std::shared_ptr<Value>>;
  const size_t capacity_;
  std::mutex mutex_;
  std::list<Entry> values_;
  std::map<Key, typename std::list<Entry>::iterator> places_;
};

// Memory that grows to what was asked for, and stays.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  ~Buffer() { std::free(data_); }

  void* reserve(int64_t bytes) {
    if (bytes <= bytes_) return data_;
    std::free(data_);
    bytes_ = (bytes + 4095) / 4096 * 4096;
    data_ = std::aligned_alloc(4096, bytes_);
    if (!data_) bytes_ = 0, throw std::bad_alloc();
    return data_;
  }
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// One of the team's threads. Its buffers, about a megabyte at ViT-B/16 shapes, are the device's own and not of the arena: the
// arena's figures do not depend on the number of threads.
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

struct GemmCache::State {
  const int threads;
  Recent<const Panel> panels{256};
  Recent<Tile> tiles{256};
  Recent<Operation> reorders{128};
  std::vector<Worker> workers;  // the stream thread's alone

  explicit State(int threads) : threads(threads) {}

  std::shared_ptr<const Panel> panel(int64_t k, int64_t columns, DType dtype) {
    return panels.get({k, columns, static_cast<int64_t>(dtype)}, [&] {
      const OneThread one;
      return plan_panel(k, columns, dtype);
    });
  }

  std::shared_ptr<Tile> tile(int64_t rows, int64_t columns, int64_t k, DType dtype, bool transposed) {
    return tiles.get({rows, columns, k, static_cast<int64_t>(dtype), transposed}, [&] {
      const auto plan = plan_tile(rows, columns, k, dtype, transposed, panel(k, columns, dtype)->desc);
      return Tile(dnnl::matmul(plan), plan, threads);
    });
  }

  // Between a panel and a plain matrix of `plain_dtype`, whose lines (rows, or columns when transposed) are `distance` numbers
  // apart.
  std::shared_ptr<Operation> reorder(int64_t k, int64_t columns, DType dtype, DType plain_dtype, int64_t distance,
                                     bool transposed, bool packing) {
    const Key key = {k, columns, static_cast<int64_t>(dtype), static_cast<int64_t>(plain_dtype), distance, transposed, packing};
    return reorders.get(key, [&] {
      const memory::dims strides = transposed ? memory::dims{1, distance} : memory::dims{distance, 1};
      const memory::desc plain = describe(k, columns, plain_dtype, strides), packed = panel(k, columns, dtype)->desc;
      const auto plan = packing ? onednn::plan_reorder(engine(), plain, packed) : onednn::plan_reorder(engine(), packed, plain);
      return Operation(dnnl::reorder(plan), plan, threads);
    });
  }

  std::vector<Worker>& team() {
    while (static_cast<int>(workers.size()) < threads) workers.emplace_back();
    return workers;
  }
};

}  // namespace sidetune::cpu
