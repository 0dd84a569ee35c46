#include "native/check.h"

#include <cmath>

#include "testing.h"

namespace sidetune {
namespace {

// Tensors that need only differ: their memory is never touched.
Tensor tensor(std::initializer_list<int64_t> shape, DType dtype = DType::f32) {
  static char* next = reinterpret_cast<char*>(uintptr_t{1} << 40);
  Tensor t;
  for (int64_t length : shape) t.shape[t.rank++] = length;
  t.dtype = dtype;
  t.data = next;
  t.storage_bytes = t.bytes();
  next += t.bytes() + 64;
  return t;
}

// A call of a kernel whose field list is written in the test.
struct Call {
  FieldList fields;
  Wish wish;
  std::vector<Field*> missing;

  Error error = Error(Code::argument, "nothing was thrown");

  bool passes(const char* kernel = "SomeKernel") {
    try {
      missing = check(kernel, fields, wish);
      return true;
    } catch (const Error& thrown) {
      error = thrown;
      return false;
    }
  }
  std::string refusal(const char* kernel = "SomeKernel") {
    passes(kernel);
    return error.message;
  }
};

// A field "y" of the given spec after x[2, 12, 5] that binds B, N, d.
std::string against(const char* spec, std::initializer_list<int64_t> shape) {
  Tensor x = tensor({2, 12, 5}), y = tensor(shape);
  Call call;
  call.fields.in("x", x, "B N d", f32);
  call.fields.in("y", y, spec, f32);
  return call.passes() ? "" : call.error.message;
}

TEST(check_computes_dimensions) {
  CHECK_EQUAL(against("B N", {2, 12}), "");
  CHECK_EQUAL(against("3*d", {15}), "");
  CHECK_EQUAL(against("N/4", {3}), "");
  CHECK_EQUAL(against("N/4*B+1", {7}), "");
  CHECK_EQUAL(against("B+N*d", {62}), "");
  CHECK_EQUAL(against("N+d-B", {15}), "");
  CHECK_EQUAL(against("N-d-B", {5}), "");
  CHECK_EQUAL(against("N-2*d", {2}), "");
  CHECK_EQUAL(against("N-12", {0}), "");
  CHECK_EQUAL(against("(B+N)*d", {70}), "");
  CHECK_EQUAL(against("((B+N)*d)/7", {10}), "");
  CHECK_EQUAL(against("4 M", {4, 99}), "");
  CHECK_EQUAL(against("... d", {2, 12, 5}), "");
  CHECK_EQUAL(against("... d", {5}), "");  // the first "..." may stand for nothing
  CHECK_EQUAL(against("", {}), "");
}

TEST(check_says_where_an_expectation_comes_from) {
  CHECK_EQUAL(against("B N", {2, 11}), "someKernel: 'y' has shape [2, 11], expected [B, N] = [2, 12] (B, N from 'x')");
  CHECK_EQUAL(against("3*d", {16}), "someKernel: 'y' has shape [16], expected [3*d] = [15] (d from 'x')");
  CHECK_EQUAL(against("4", {5}), "someKernel: 'y' has shape [5], expected [4]");
  CHECK_EQUAL(against("N/5", {2}), "someKernel: 'y' needs N/5, but 12 / 5 is not a whole number (N from 'x')");
  CHECK_EQUAL(against("d-N", {2}), "someKernel: 'y' needs d-N, but 5 - 12 is less than 0 (N, d from 'x')");
  CHECK_EQUAL(against("M M", {3, 4}), "someKernel: 'y' has shape [3, 4], expected [M, M] = [3, 3] (M from 'y')");
  CHECK_EQUAL(against("M", {3, 4}), "someKernel: 'y' has shape [3, 4], expected [M]");
  CHECK_EQUAL(against("M 2*M d", {3}), "someKernel: 'y' has shape [3], expected [M, 2*M, d] = [M, 2*M, 5] (d from 'x')");
}

TEST(check_sentences_of_the_style_guide) {
  {
    Tensor q = tensor({2, 197, 12, 64}), k = tensor({2, 196, 12, 64});
    Call call;
    call.fields.in("q", q, "B N H E", f32);
    call.fields.in("k", k, "B N H E", f32);
    CHECK_EQUAL(
        call.refusal("AttentionForward"),
        "attentionForward: 'k' has shape [2, 196, 12, 64], expected [B, N, H, E] = [2, 197, 12, 64] (B, N, H, E from 'q')");
    CHECK(call.error.code == Code::shape);
    CHECK_EQUAL(call.error.kernel, "attentionForward");
    CHECK_EQUAL(call.error.argument, "k");
    CHECK_EQUAL(call.error.got, "[2, 196, 12, 64]");
  }
  {
    Tensor x = tensor({2, 768}), weight = tensor({768, 1});
    Call call;
    call.fields.in("x", x, "... d", f32 | bf16);
    call.fields.in("weight", weight, "d", f32);
    CHECK_EQUAL(call.refusal("LayerNormForward"),
                "layerNormForward: 'weight' has shape [768, 1], expected [d] = [768] (d from 'x')");
  }
  {
    Tensor x = tensor({8}), out = x;
    Call call;
    call.fields.in("x", x, "...", f32);
    call.fields.out("out", out, "...", like("x"));
    CHECK_EQUAL(call.refusal("SwishForward"), "swishForward: 'out' overlaps 'x'");
    CHECK(call.error.code == Code::shape);
    CHECK_EQUAL(call.error.argument, "out");
  }
  {
    Tensor h = tensor({8}, DType::bf16);
    Call call;
    call.fields.in("h", h, "...", f32);
    CHECK_EQUAL(call.refusal("LowRankAccumulateForward"), "lowRankAccumulateForward: 'h' is bf16, expected f32");
    CHECK(call.error.code == Code::dtype);
  }
  {
    Tensor grad_out;
    Call call;
    call.fields.in("grad_out", grad_out, "... d", f32);
    CHECK_EQUAL(call.refusal("GeluBackward"), "geluBackward: 'gradOut' is missing, expected a tensor [..., d]");
    CHECK(call.error.code == Code::argument);
    CHECK_EQUAL(call.error.argument, "gradOut");
  }
  {
    try {
      refuse_shape("SideInjectForward", "prefix_tokens", "197", "183");
    } catch (const Error& error) {
      CHECK_EQUAL(error.message, "sideInjectForward: 'prefixTokens' is 197, expected 183");
      CHECK(error.code == Code::shape);
    }
  }
}

TEST(check_leading_dimensions) {
  Tensor x = tensor({2, 3, 4}), same = tensor({2, 3, 9}), other = tensor({3, 2, 9}), mean = tensor({2, 3});
  Call call;
  call.fields.in("x", x, "... d", f32);
  call.fields.in("same", same, "... e", f32);
  call.fields.in("mean", mean, "...", f32);
  CHECK(call.passes());
  call.fields.in("other", other, "... e", f32);
  CHECK_EQUAL(call.refusal(),
              "someKernel: 'other' has shape [3, 2, 9], expected [..., e] = [2, 3, 9] (e from 'same', ... from 'x')");
  Tensor none = tensor({});
  Call short_call;
  short_call.fields.in("x", none, "... d", f32);
  CHECK_EQUAL(short_call.refusal(), "someKernel: 'x' has shape [], expected [..., d]");
}

TEST(check_dtypes) {
  Tensor x = tensor({4}, DType::bf16), y = tensor({4}), labels = tensor({4}, DType::u8);
  Call call;
  call.fields.in("x", x, "d", f32 | bf16);
  call.fields.in("y", y, "d", like("x"));
  CHECK_EQUAL(call.refusal(), "someKernel: 'y' is f32, expected bf16 like 'x'");
  Call two;
  two.fields.in("labels", labels, "d", f32 | bf16 | i32);
  CHECK_EQUAL(two.refusal(), "someKernel: 'labels' is u8, expected f32 or bf16 or i32");
  Tensor packed = tensor({4, 4});
  packed.layout = Layout::packed_transposed;
  Call layout;
  layout.fields.in("weight", packed, "O I", f32);
  CHECK_EQUAL(layout.refusal(), "someKernel: 'weight' has layout packed_transposed, expected plain");
  Call takes;
  takes.fields.in("weight", packed, "O I", f32).packed();
  CHECK(takes.passes());
}

TEST(check_infers_what_is_missing) {
  Tensor x = tensor({2, 3, 4}, DType::bf16), out, mean, unwanted, given = tensor({2, 3, 8}, DType::bf16);
  Call call;
  call.fields.in("x", x, "... d", f32 | bf16);
  call.fields.out("out", out, "... 2*d", like("x"));
  call.fields.saved("mean", mean, "...", f32);
  call.fields.out("unwanted_one", unwanted, "... d", f32).optional();
  call.fields.out("given", given, "... 2*d", like("x"));
  call.wish.wanted = [](const std::string& name) { return name != "unwantedOne"; };
  CHECK(call.passes());
  CHECK_EQUAL(call.missing.size(), 1u);
  CHECK_EQUAL(to_string(out), "[2, 3, 8]");
  CHECK(out.dtype == DType::bf16 && !out && !unwanted && !mean);
  call.wish.save = true;
  CHECK(call.passes());
  CHECK_EQUAL(call.missing.size(), 2u);
  CHECK_EQUAL(to_string(mean), "[2, 3]");
  CHECK(mean.dtype == DType::f32);
}

TEST(check_refuses_to_leave_out_what_is_always_made) {
  Tensor x = tensor({4}), out;
  Call call;
  call.fields.in("x", x, "...", f32);
  call.fields.out("out", out, "...", f32);
  call.wish.wanted = [](const std::string&) { return false; };
  CHECK_EQUAL(call.refusal(), "someKernel: 'out' is always made: it cannot be unwanted");
}

TEST(check_asks_when_a_dtype_is_the_callers_choice) {
  Tensor x = tensor({4}), out;
  Call call;
  call.fields.in("x", x, "...", f32 | bf16);
  call.fields.out("out", out, "...", f32 | bf16);
  CHECK_EQUAL(call.refusal("Cast"), "cast: 'out' is missing: its dtype (f32 or bf16) is the caller's choice");
}

TEST(check_refuses_what_would_be_too_large) {
  Tensor x = tensor({1, 1, 1, 1, 1, 1}), out;
  Call rank;
  rank.fields.in("x", x, "...", f32);
  rank.fields.out("out", out, "... 2", f32);
  CHECK_EQUAL(rank.refusal(), "someKernel: 'out' would have 7 dimensions, expected at most 6");
  int64_t grid[2] = {int64_t{1} << 40, int64_t{1} << 40};
  Call product;
  product.fields.option("grid", grid, at_least(1)).bind("GH GW");
  product.fields.out("out", out, "GH*GW", f32);
  CHECK_EQUAL(product.refusal(), "someKernel: 'out' needs GH*GW, which is more than 2^48 (GH, GW from 'grid')");
  Call sum;
  sum.fields.option("grid", grid, at_least(1)).bind("GH GW");
  sum.fields.out("out", out, "GH GW", f32);
  CHECK_EQUAL(sum.refusal(), "someKernel: 'out' needs GH, GW, which is more than 2^48 (GH, GW from 'grid')");
}

TEST(check_optional_inputs) {
  Tensor x = tensor({4}), bias, wrong = tensor({5});
  Call call;
  call.fields.in("x", x, "d", f32);
  call.fields.in("bias", bias, "d", f32).optional();
  CHECK(call.passes());
  call.fields.in("other", wrong, "d", f32).optional();
  CHECK_EQUAL(call.refusal(), "someKernel: 'other' has shape [5], expected [d] = [4] (d from 'x')");
}

std::string option_refusal(float value, Range range) {
  Call call;
  call.fields.option("some_option", value, range);
  return call.passes() ? "" : call.error.message;
}

TEST(check_options) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  CHECK_EQUAL(option_refusal(1e-6f, positive()), "");
  CHECK_EQUAL(option_refusal(0, positive()), "someKernel: 'someOption' is 0, expected a number above 0");
  CHECK_EQUAL(option_refusal(nan, positive()), "someKernel: 'someOption' is nan, expected a number above 0");
  CHECK_EQUAL(option_refusal(infinity, positive()), "someKernel: 'someOption' is inf, expected a number above 0");
  CHECK_EQUAL(option_refusal(0, at_least(0)), "");
  CHECK_EQUAL(option_refusal(-1, at_least(0)), "someKernel: 'someOption' is -1, expected a number of at least 0");
  CHECK_EQUAL(option_refusal(0.5f, between(0, 1)), "");
  CHECK_EQUAL(option_refusal(1.5f, between(0, 1)), "someKernel: 'someOption' is 1.5, expected a number from 0 to 1");
  CHECK_EQUAL(option_refusal(-3, finite()), "");
  CHECK_EQUAL(option_refusal(-infinity, finite()), "someKernel: 'someOption' is -inf, expected a finite number");
  CHECK_EQUAL(option_refusal(nan, finite()), "someKernel: 'someOption' is nan, expected a finite number");
  int64_t heads = 0;
  Call integer;
  integer.fields.option("heads", heads, at_least(1));
  CHECK_EQUAL(integer.refusal(), "someKernel: 'heads' is 0, expected a number of at least 1");
}

TEST(check_options_bind_shapes) {
  int64_t prefix = 1, grid[2] = {14, 13};
  Tensor z = tensor({2, 197, 8});
  Call call;
  call.fields.option("prefix_tokens", prefix, at_least(0)).bind("P");
  call.fields.option("grid", grid, at_least(1)).bind("GH GW");
  call.fields.in("z", z, "B P+GH*GW d", f32);
  CHECK_EQUAL(call.refusal("SideInjectForward"),
              "sideInjectForward: 'z' has shape [2, 197, 8], expected [B, P+GH*GW, d] = [2, 183, d] (P from 'prefixTokens', GH, "
              "GW from 'grid', B from 'z')");
  grid[1] = 14;
  CHECK(call.passes());
}

TEST(check_overlaps) {
  Tensor x = tensor({4, 4}), part = x, out = x;
  part.data = x.as<float>() + 4;
  part.shape[0] = 3;
  const auto written = [&](Tensor given, const char* may_alias) {
    Tensor input = x, output = given;
    Call call;
    call.fields.in("x", input, "N d", f32);
    Field& field = call.fields.out("out", output, "M d", f32);
    if (may_alias) field.may_alias(may_alias);
    return call.passes() ? "" : call.error.message;
  };
  CHECK_EQUAL(written(out, "x"), "");                                // exactly that tensor
  CHECK_EQUAL(written(out, "y"), "someKernel: 'out' overlaps 'x'");  // another one is allowed
  CHECK_EQUAL(written(out, nullptr), "someKernel: 'out' overlaps 'x'");
  CHECK_EQUAL(written(part, "x"), "someKernel: 'out' overlaps 'x'");  // in part
  Tensor next = x;
  next.data = x.as<float>() + 16;
  CHECK_EQUAL(written(next, nullptr), "");  // side by side

  Tensor a = x, b = x;
  Call reads;
  reads.fields.in("a", a, "N d", f32);
  reads.fields.in("b", b, "N d", f32);
  CHECK(reads.passes());  // what is only read may be shared
  Call writes;
  writes.fields.in_out("a", a, "N d", f32);
  writes.fields.in_out("b", b, "N d", f32);
  CHECK_EQUAL(writes.refusal(), "someKernel: 'b' overlaps 'a'");
  Call mixed;
  mixed.fields.in_out("a", a, "N d", f32);
  mixed.fields.in("b", b, "N d", f32);
  CHECK_EQUAL(mixed.refusal(), "someKernel: 'a' overlaps 'b'");
}

TEST(check_lists) {
  TensorList parameters = {tensor({2, 3}), tensor({7})}, moments = {tensor({2, 3}), tensor({7})};
  const auto refusal = [&](TensorList other, bool optional = false) {
    TensorList first = parameters;
    Call call;
    call.fields.in_out("parameters", first, "...", f32);
    Field& field = call.fields.in("moments", other, "...", f32);
    if (optional) field.optional();
    return call.passes() ? "" : call.error.message;
  };
  CHECK_EQUAL(refusal(moments), "");
  CHECK_EQUAL(refusal({moments[0]}), "someKernel: 'moments' has 1 tensor, expected 2 like 'parameters'");
  CHECK_EQUAL(refusal({moments[0], tensor({8})}),
              "someKernel: 'moments' has a tensor of shape [8] at 1, expected [7] like 'parameters'");
  CHECK_EQUAL(refusal({tensor({3, 2}), moments[1]}),
              "someKernel: 'moments' has a tensor of shape [3, 2] at 0, expected [2, 3] like 'parameters'");
  CHECK_EQUAL(refusal({moments[0], tensor({7}, DType::bf16)}), "someKernel: 'moments' is bf16, expected f32");
  CHECK_EQUAL(refusal({}), "someKernel: 'moments' is an empty list, expected at least one tensor");
  CHECK_EQUAL(refusal({}, true), "");
  CHECK_EQUAL(refusal(parameters), "someKernel: 'parameters' overlaps 'moments'");
  TensorList twice = {parameters[0], parameters[0]};
  Call call;
  call.fields.in_out("parameters", twice, "...", f32);
  CHECK_EQUAL(call.refusal(), "someKernel: 'parameters' overlaps 'parameters'");
}

TEST(check_a_refused_call_changes_nothing) {
  Tensor x = tensor({4}), weight = tensor({5}), out;
  Call call;
  call.fields.in("x", x, "d", f32);
  call.fields.in("weight", weight, "d", f32);
  call.fields.out("out", out, "d", f32);
  CHECK(!call.passes());
  CHECK(!out && out.rank == 0);
}

TEST(check_names) {
  CHECK_EQUAL(camel_case("grad_out"), "gradOut");
  CHECK_EQUAL(camel_case("LayerNormForward"), "layerNormForward");
  CHECK_EQUAL(camel_case("x"), "x");
  CHECK_EQUAL(camel_case("beta1"), "beta1");
}

TEST(check_counts_bytes) {
  Tensor x = tensor({4, 8}, DType::bf16), state = tensor({8}), unwanted, out = tensor({4, 8});
  TensorList list = {tensor({2}), tensor({3})};
  FieldList fields;
  fields.in("x", x, "N d", bf16);
  fields.in_out("state", state, "d", f32);
  fields.out("out", out, "N d", f32);
  fields.out("unwanted", unwanted, "N d", f32);
  fields.in("list", list, "...", f32);
  CHECK_EQUAL(bytes_moved(fields), 64 + 2 * 32 + 128 + 20);
}

enum class Mode : uint8_t { first, mean };

TEST(check_describes_a_kernel) {
  Tensor x, out;
  TensorList list;
  float eps = 0;
  int64_t grid[2] = {};
  Mode mode = Mode::first;
  FieldList fields;
  fields.in("x", x, "... d", f32 | bf16).optional().packed();
  fields.in("some_list", list, "...", f32);
  fields.out("out", out, "... d", like("x"));
  fields.option("eps", eps, positive());
  fields.option("grid", grid, at_least(1)).required();
  fields.choice("mode", mode, "first mean");
  CHECK_EQUAL(describe("PoolForward", "pool", fields),
              R"({"kernel":"poolForward","family":"pool","fields":[)"
              R"({"name":"x","role":"in","spec":"... d","dtypes":"f32 bf16","optional":true,"packed":true},)"
              R"({"name":"someList","role":"in","spec":"...","dtypes":"f32","list":true},)"
              R"({"name":"out","role":"out","spec":"... d","dtypes":"like x"},)"
              R"({"name":"eps","role":"option","type":"number"},)"
              R"({"name":"grid","role":"option","type":"integers","count":2,"required":true},)"
              R"({"name":"mode","role":"option","type":"choice","choices":"first mean"}]})");
}

}  // namespace
}  // namespace sidetune
