// A view of numbers in a device's memory: pointer, shape, dtype, layout. It owns nothing and computes nothing.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace sidetune {

// i8 is the dtype of packed weights alone: numbers with one scale for each output channel.
enum class DType : uint8_t { f32, bf16, i32, u8, i8 };
constexpr int kDTypes = 5;

// plain: row-major, contiguous. packed / packed_transposed: a weight [O, I] in the order in which the backend's GEMM reads it as
// the right-hand side of x Wᵀ (packed) or of gradOut W (packed_transposed); opaque to everything but the linear family.
enum class Layout : uint8_t { plain, packed, packed_transposed };

constexpr int kMaxRank = 6;
constexpr int64_t kMaxSize =
    int64_t{1} << 48;  // numbers in a tensor: products of a few such sizes and widths stay far from overflow

constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::u8:
    case DType::i8:
      return 1;
  }
  return 0;
}

const char* name_of(DType dtype);
const char* name_of(Layout layout);

struct Tensor {
  void* data = nullptr;
  int64_t shape[kMaxRank] = {};
  int rank = 0;
  DType dtype = DType::f32;
  Layout layout = Layout::plain;
  int64_t storage_bytes = 0;  // bytes that the buffer holds from `data` on; differs from bytes() only when packed

  explicit operator bool() const { return data != nullptr; }

  int64_t size() const {
    int64_t count = 1;
    for (int axis = 0; axis < rank; axis++) count *= shape[axis];
    return count;
  }
  int64_t bytes() const { return layout == Layout::plain ? size() * size_of(dtype) : storage_bytes; }
  // Length of an axis; negative axes count from the end.
  int64_t dim(int axis) const { return shape[axis < 0 ? rank + axis : axis]; }
  // Product of all axes but the last.
  int64_t rows() const { return rank == 0 || dim(-1) == 0 ? 0 : size() / dim(-1); }

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

using TensorList = std::vector<Tensor>;

// "[2, 197, 768]"
std::string to_string(const Tensor& tensor);
std::string shape_to_string(const int64_t* shape, int rank);

}  // namespace sidetune
