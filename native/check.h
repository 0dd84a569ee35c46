// Turns a kernel's field list into a yes, or into an Error that says which argument, what came, what was expected and where the
// expectation comes from. Host code, run before anything is queued: a bad call changes nothing.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "error.h"
#include "fields.h"

namespace sidetune {

// What the caller asks for beside the tensors it gave.
struct Wish {
  bool save = false;                                     // make the `saved` outputs
  std::function<bool(const std::string& field)> wanted;  // which outputs to make; null: all
};

// Checks every field, binds the shape names, and completes shape and dtype of each output that must be allocated; those are
// returned.
std::vector<Field*> check(const char* kernel, FieldList& fields, const Wish& wish);

// For rules that a field line cannot say. Names as in the field list.
[[noreturn]] void refuse_shape(const char* kernel, const char* argument, const std::string& got, const std::string& expected);
[[noreturn]] void refuse_argument(const char* kernel, const char* argument, const std::string& got, const std::string& expected);
// Of a sum Σ_j u_j c_j: each u must have the rows of h, and the rank of c.
void check_factors(const char* kernel, const TensorList& u, const Tensor& h, const TensorList& c);
double factor_flops(const Tensor& h, const TensorList& c);  // of that sum

// "grad_out" -> "gradOut", "LayerNormForward" -> "layerNormForward": names as JavaScript sees them.
std::string camel_case(const std::string& name);

// Bytes that a call must move: in + out + 2 in_out.
int64_t bytes_moved(const FieldList& fields);

// A call in a few words: "x bf16[16,197,768], weight bf16[3072,768] packed, activation gelu, out bf16[16,197,3072]".
std::string call_text(const FieldList& fields);

// JSON of a kernel's fields; TypeScript types and docs are made from it.
std::string describe(const char* kernel, const char* family, const FieldList& fields);

}  // namespace sidetune
