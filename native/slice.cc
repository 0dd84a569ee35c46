#include "slice.h"

#include "check.h"

namespace sidetune {
namespace {

void check_range(const char* kernel, const char* argument, const int64_t (&range)[2], int64_t length, const char* of) {
  const std::string got = "[" + std::to_string(range[0]) + ", " + std::to_string(range[1]) + "]";
  if (range[0] == range[1]) refuse_argument(kernel, argument, got, "an end behind the start");
  if (range[1] > length) {
    refuse_argument(
        kernel, argument, got,
        "an end of at most " + std::to_string(length) + ", the number of " + argument + " of '" + camel_case(of) + "'");
  }
}

int64_t bytes_beside(const Tensor& matrix, const int64_t (&rows)[2], const int64_t (&columns)[2]) {
  return (matrix.size() - (rows[1] - rows[0]) * (columns[1] - columns[0])) * size_of(matrix.dtype);
}

}  // namespace

void SliceForward::check(const char* kernel) const {
  check_range(kernel, "rows", rows, x.dim(0), "x");
  check_range(kernel, "columns", columns, x.dim(1), "x");
}
void SliceBackward::check(const char* kernel) const {
  check_range(kernel, "rows", rows, grad_x.dim(0), "grad_x");
  check_range(kernel, "columns", columns, grad_x.dim(1), "grad_x");
}

int64_t SliceForward::untouched_bytes() const { return bytes_beside(x, rows, columns); }
int64_t SliceBackward::untouched_bytes() const { return 2 * bytes_beside(grad_x, rows, columns); }

}  // namespace sidetune
