// A window of a matrix as a tensor of its own:
//   out = x[row from : row to, column from : column to]          "to" is exclusive
// Backward adds into the window of the gradient of x, and touches nothing beside it:
//   gradX[row from : row to, column from : column to] += gradOut
// For small trained tensors of which a part is at work, such as the factors of a supernet.
#pragma once

#include "fields.h"

namespace sidetune {

struct SliceForward {
  Tensor x, out;
  int64_t rows[2] = {}, columns[2] = {};  // from, to

  template <class Fields>
  void fields(Fields& field) {
    field.option("rows", rows, at_least(0)).bind("rowFrom rowTo").required();
    field.option("columns", columns, at_least(0)).bind("columnFrom columnTo").required();
    field.in("x", x, "R C", f32);
    field.out("out", out, "rowTo-rowFrom columnTo-columnFrom", f32);
  }
  void check(const char* kernel) const;  // the window is there
  int64_t untouched_bytes() const;
  double flops() const { return 0.0; }
};

struct SliceBackward {
  Tensor grad_out, grad_x;
  int64_t rows[2] = {}, columns[2] = {};

  template <class Fields>
  void fields(Fields& field) {
    field.option("rows", rows, at_least(0)).bind("rowFrom rowTo").required();
    field.option("columns", columns, at_least(0)).bind("columnFrom columnTo").required();
    field.in("grad_out", grad_out, "rowTo-rowFrom columnTo-columnFrom", f32);
    field.in_out("grad_x", grad_x, "R C", f32);
  }
  void check(const char* kernel) const;
  int64_t untouched_bytes() const;
  double flops() const { return 1.0 * grad_out.size(); }
};

}  // namespace sidetune
