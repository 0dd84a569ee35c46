// The words in which a kernel declares its arguments. An argument struct has one function
//
//   template <class Fields> void fields(Fields& field) {
//     field.in("x", x, "... d", f32 | bf16);
//     field.out("out", out, "... d", like("x"));
//     field.option("eps", eps, positive());
//   }
//
// and everything else is derived from that list: the check of a call and its error messages, the shapes of what it returns,
// unpacking from JavaScript, TypeScript types, bytes moved, poisoning in tests (check.h, describe.h, binding/kernel.h).
//
// A shape spec is dimensions separated by blanks. A name is bound by the first field that uses it and must agree afterwards;
// "..." stands for any leading dimensions; a dimension may be computed from bound names with + - * / ("P+GH*GW", "N-R").
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tensor.h"

namespace sidetune {

enum class Role : uint8_t {
  in,      // read
  in_out,  // updated in place; the buffer's version moves on
  out,  // written; allocated when the caller gave none; an optional one may be unwanted: then it is null, and the kernel must not
        // spend work on it
  saved,  // an `out` that only backward reads: made when the caller asks for it
  option  // a number, flag, choice or list of integers
};

// Which dtypes a field takes: a set, or the dtype of an earlier field.
struct DTypes {
  uint32_t set = 0;
  const char* like = nullptr;
  bool in_bytes = false;  // u8 where that field is bf16

  DType beside(DType other) const { return in_bytes && other == DType::bf16 ? DType::u8 : other; }
};
constexpr DTypes operator|(DTypes a, DTypes b) { return {a.set | b.set}; }
constexpr DTypes f32{1u << static_cast<int>(DType::f32)};
constexpr DTypes bf16{1u << static_cast<int>(DType::bf16)};
constexpr DTypes i32{1u << static_cast<int>(DType::i32)};
constexpr DTypes u8{1u << static_cast<int>(DType::u8)};
constexpr DTypes i8{1u << static_cast<int>(DType::i8)};
constexpr DTypes like(const char* field) { return {0, field}; }
constexpr DTypes bytes_like(const char* field) { return {0, field, true}; }

// What an option accepts.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool open = false;  // low itself is excluded
};
constexpr Range finite() { return {-std::numeric_limits<double>::max(), std::numeric_limits<double>::max(), false}; }
constexpr Range positive() { return {0, std::numeric_limits<double>::max(), true}; }
constexpr Range at_least(double low) { return {low, std::numeric_limits<double>::max(), false}; }
constexpr Range between(double low, double high) { return {low, high, false}; }

struct Field {
  Role role = Role::in;
  const char* name = "";  // snake_case; camelCase in JavaScript

  // tensor fields
  Tensor* tensor = nullptr;
  TensorList* list = nullptr;  // a list of tensors, each of which the spec describes on its own
  const char* spec = "";
  DTypes dtypes;
  bool is_optional = false;
  bool takes_packed = false;
  const char* alias = nullptr;  // the input that this output may overlap

  // options: exactly one pointer is set
  float* real = nullptr;
  int64_t* integer = nullptr;
  bool* flag = nullptr;
  uint8_t* choice = nullptr;      // index into choices
  const char* choices = nullptr;  // names separated by blanks
  int64_t* integers = nullptr;
  int integer_count = 0;
  Range range;
  const char* binds = nullptr;  // shape names that the integers bind, separated by blanks
  bool is_required = false;

  Field& optional() {
    is_optional = true;
    return *this;
  }
  Field& packed() {
    takes_packed = true;
    return *this;
  }
  Field& may_alias(const char* input) {
    alias = input;
    return *this;
  }
  Field& bind(const char* names) {
    binds = names;
    return *this;
  }
  Field& required() {
    is_required = true;
    return *this;
  }
};

// Collects the field list of an argument struct.
class FieldList {
 public:
  std::vector<Field> all;

  FieldList() { all.reserve(16); }

  Field& in(const char* name, Tensor& t, const char* spec, DTypes dtypes) { return tensor(Role::in, name, &t, spec, dtypes); }
  Field& in_out(const char* name, Tensor& t, const char* spec, DTypes dtypes) {
    return tensor(Role::in_out, name, &t, spec, dtypes);
  }
  Field& out(const char* name, Tensor& t, const char* spec, DTypes dtypes) { return tensor(Role::out, name, &t, spec, dtypes); }
  Field& saved(const char* name, Tensor& t, const char* spec, DTypes dtypes) {
    return tensor(Role::saved, name, &t, spec, dtypes);
  }
  Field& in(const char* name, TensorList& l, const char* spec, DTypes dtypes) { return list(Role::in, name, &l, spec, dtypes); }
  Field& in_out(const char* name, TensorList& l, const char* spec, DTypes dtypes) {
    return list(Role::in_out, name, &l, spec, dtypes);
  }

  Field& option(const char* name, float& value, Range range) {
    Field& field = add(Role::option, name);
    field.real = &value, field.range = range;
    return field;
  }
  Field& option(const char* name, int64_t& value, Range range) {
    Field& field = add(Role::option, name);
    field.integer = &value, field.range = range;
    return field;
  }
  Field& option(const char* name, bool& value) {
    Field& field = add(Role::option, name);
    field.flag = &value;
    return field;
  }
  // One of a few names; the value is the name's place in the list and can be read as the enum E.
  template <class E>
  Field& choice(const char* name, E& value, const char* choices) {
    static_assert(sizeof(E) == 1, "choices are enums of one byte");
    Field& field = add(Role::option, name);
    field.choice = reinterpret_cast<uint8_t*>(&value), field.choices = choices;
    return field;
  }
  template <int Count>
  Field& option(const char* name, int64_t (&values)[Count], Range range) {
    Field& field = add(Role::option, name);
    field.integers = values, field.integer_count = Count, field.range = range;
    return field;
  }

 private:
  Field& add(Role role, const char* name) {
    Field& field = all.emplace_back();
    field.role = role, field.name = name;
    return field;
  }
  Field& tensor(Role role, const char* name, Tensor* t, const char* spec, DTypes dtypes) {
    Field& field = add(role, name);
    field.tensor = t, field.spec = spec, field.dtypes = dtypes;
    return field;
  }
  Field& list(Role role, const char* name, TensorList* l, const char* spec, DTypes dtypes) {
    Field& field = add(role, name);
    field.list = l, field.spec = spec, field.dtypes = dtypes;
    return field;
  }
};

template <class Arguments>
FieldList fields_of(Arguments& arguments) {
  FieldList list;
  arguments.fields(list);
  return list;
}

}  // namespace sidetune
