// The few places where oneDNN 2.x and 3.x differ, behind one name each. Everything else that we use is spelled alike in both.
#pragma once

#include <dnnl.hpp>
#include <string>

#include "../tensor.h"

namespace sidetune::cpu::onednn {

using dnnl::memory;

// The plan of dst = src · weights with `memory::format_tag::any` resolved; scratch memory is the caller's. Throws dnnl::error if
// there is no implementation for these dtypes on this machine.
inline dnnl::matmul::primitive_desc plan_matmul(const dnnl::engine& engine, const memory::desc& src, const memory::desc& weights,
                                                const memory::desc& dst) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
  return {engine, src, weights, dst, attributes};
#else
  return {dnnl::matmul::desc(src, weights, dst), attributes, engine};
#endif
}

inline dnnl::reorder::primitive_desc plan_reorder(const dnnl::engine& engine, const memory::desc& from, const memory::desc& to) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return {engine, from, engine, to, attributes};
}

inline memory::data_type type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return memory::data_type::bf16;
    case DType::i32:
      return memory::data_type::s32;
    case DType::u8:
      return memory::data_type::u8;
    case DType::i8:
      return memory::data_type::s8;
    case DType::f32:
      break;
  }
  return memory::data_type::f32;
}

inline std::string version() {
  const dnnl::version_t* v = dnnl::version();
  return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

// oneDNN keeps 1024 primitives per process by default. We keep our own, by shape, so a second copy only holds memory. Lowers,
// never raises.
inline void limit_primitive_cache(int capacity) {
  if (dnnl::get_primitive_cache_capacity() > capacity) dnnl::set_primitive_cache_capacity(capacity);
}

}  // namespace sidetune::cpu::onednn
