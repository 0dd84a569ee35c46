#include "tensor.h"

namespace sidetune {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
    case DType::u8:
      return "u8";
    case DType::i8:
      return "i8";
  }
  return "?";
}

const char* name_of(Layout layout) {
  switch (layout) {
    case Layout::plain:
      return "plain";
    case Layout::packed:
      return "packed";
    case Layout::packed_transposed:
      return "packed_transposed";
  }
  return "?";
}

std::string shape_to_string(const int64_t* shape, int rank) {
  std::string text = "[";
  for (int axis = 0; axis < rank; axis++) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + "]";
}

std::string to_string(const Tensor& tensor) { return shape_to_string(tensor.shape, tensor.rank); }

}  // namespace sidetune
