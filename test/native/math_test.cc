// math-inl.h on every SIMD target of this machine: loads and stores of every count at several misalignments, bf16 rounding, and
// the functions over all exponents against double precision.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "test/native/math_test.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "native/cpu/math-inl.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "testing.h"

#ifndef SIDETUNE_MATH_TEST_SCALAR
#define SIDETUNE_MATH_TEST_SCALAR

namespace sidetune::testing {

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The rule in words: the nearer of two neighbours, of equally near ones the even one; NaN becomes a quiet NaN of the same sign.
inline uint16_t bf16_of(float value) {
  const uint32_t bits = bits_of(value), upper = bits >> 16, lower = bits & 0xFFFF;
  if (std::isnan(value)) return static_cast<uint16_t>(upper | 0x40);
  const bool up = lower > 0x8000 || (lower == 0x8000 && (upper & 1));
  return static_cast<uint16_t>(upper + (up ? 1 : 0));
}

inline float number_of(float value) { return value; }
inline float number_of(uint16_t value) { return float_of(static_cast<uint32_t>(value) << 16); }
inline float number_of(uint8_t value) { return value; }
inline float number_of(int8_t value) { return value; }
inline void set_number(float value, float* to) { *to = value; }
inline void set_number(float value, uint16_t* to) { *to = bf16_of(value); }

// Every sign, exponent and upper mantissa bit with edges and random numbers in the lower bits: 1.5 million floats.
inline const std::vector<float>& all_exponents() {
  static const std::vector<float> values = [] {
    std::vector<float> list;
    std::mt19937 random(7);
    for (uint32_t upper = 0; upper < 65536; upper++) {
      for (uint32_t lower : {0u, 1u, 2u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFEu, 0xFFFFu})
        list.push_back(float_of(upper << 16 | lower));
      for (int i = 0; i < 16; i++) list.push_back(float_of(upper << 16 | (random() & 0xFFFF)));
    }
    return list;
  }();
  return values;
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLeast = 0x1p-149;  // the smallest f32: what rounding a denormal may cost
constexpr double kNormal = 0x1p-126;

// Compares got with want, which must be NaN together; `allowed` is the absolute error. Beyond the largest f32 infinity is right
// too.
struct Comparison {
  const char* name;
  int64_t failed = 0;
  double worst = 0;  // error over allowed error

  void add(float x, float got, double want, double allowed, const char* file, int line) {
    const bool may_overflow = std::isinf(got) && std::abs(want) + allowed > std::numeric_limits<float>::max() &&
                              std::signbit(got) == std::signbit(want);
    const double error = std::abs(got - want);
    const bool right = std::isnan(want) ? std::isnan(got) : got == want || may_overflow || error <= allowed;
    if (right) {
      if (allowed > 0 && error <= allowed) worst = std::max(worst, error / allowed);
      return;
    }
    if (++failed > 3) return;
    char text[200];
    snprintf(text, sizeof text, "%s(%.9g) is %.9g, expected %.9g within %.3g", name, x, got, want, allowed);
    fail(file, line, text);
  }
};

}  // namespace sidetune::testing

#endif

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

using namespace sidetune::testing;

// Numbers at `misalign` elements behind an allocation's begin, ending with it: AddressSanitizer sees one read or write too many.
template <class T>
struct Exact {
  std::unique_ptr<T[]> memory;
  T* data;
  Exact(size_t count, size_t misalign) : memory(new T[count + misalign]()), data(memory.get() + misalign) {}
};

// For the same without it: `count` numbers between two walls of a pattern.
template <class T>
struct Walled {
  static constexpr size_t kWall = 64;
  std::vector<uint8_t> memory;
  size_t count, before;
  T* data;
  Walled(size_t count, size_t misalign)
      : memory((count + misalign + 2 * kWall) * sizeof(T), 0xA5), count(count), before(misalign + kWall) {
    data = reinterpret_cast<T*>(memory.data()) + before;
  }
  bool intact() const {
    const size_t begin = before * sizeof(T), end = (before + count) * sizeof(T);
    for (size_t i = 0; i < memory.size(); i++)
      if ((i < begin || i >= end) && memory[i] != 0xA5) return false;
    return true;
  }
};

template <class Body>
void for_each_count_and_misalignment(const Body& body) {
  for (size_t count = 0; count <= 2 * lanes() + 1; count++)
    for (size_t from = 0; from < 3; from++)
      for (size_t to = 0; to < 3; to++) body(count, from, to);
}

// A row read and written by for_each_vector: each number once, in order, rounded by the scalar rule, nothing else touched.
template <class From, class To>
void copy_rows() {
  std::mt19937 random(1);
  for_each_count_and_misalignment([&](size_t count, size_t misalign_from, size_t misalign_to) HWY_ATTR {
    Exact<From> from(count, misalign_from);
    for (size_t i = 0; i < count; i++) {
      if constexpr (sizeof(From) == 1)
        from.data[i] = static_cast<From>(random());
      else
        set_number(static_cast<float>(random()) / 7e8f - 3, from.data + i);
    }
    Exact<To> exact(count, misalign_to);
    Walled<To> walled(count, misalign_to);
    size_t next = 0;
    for_each_vector(count, [&](size_t i, auto at, auto put) HWY_ATTR {
      CHECK(i == next);
      next = std::min(i + lanes(), count);
      put(at(from.data), exact.data);
      put(at(from.data), walled.data);
    });
    CHECK(next == count);
    CHECK(walled.intact());
    for (size_t i = 0; i < count; i++) {
      To expected;
      set_number(number_of(from.data[i]), &expected);
      CHECK(std::memcmp(&exact.data[i], &expected, sizeof expected) == 0);
      CHECK(std::memcmp(&walled.data[i], &expected, sizeof expected) == 0);
    }
  });
}

// Whole vectors and tails on their own, of at least one number: the lanes behind a tail are zero.
template <class T>
void load_tails() {
  const size_t n = lanes();
  for (size_t count = 1; count <= n; count++) {
    for (size_t misalign = 0; misalign < 3; misalign++) {
      Exact<T> from(count, misalign);
      for (size_t i = 0; i < count; i++) from.data[i] = static_cast<T>(0x3F80 + i);
      std::vector<float> got(n, -1);
      store(count == n ? load(from.data) : load_tail(from.data, count), got.data());
      for (size_t i = 0; i < n; i++) CHECK(got[i] == (i < count ? number_of(from.data[i]) : 0.0f));
    }
  }
}

// All quarters that a byte holds, ties among them.
template <class T>
void round_to_bytes() {
  const float lowest = std::numeric_limits<T>::min(), highest = std::numeric_limits<T>::max();
  for (float number = lowest; number <= highest; number += 0.25f) {
    std::vector<T> got(lanes());
    store(hn::Set(F(), number), got.data());
    for (const T value : got) CHECK_EQUAL(static_cast<float>(value), std::nearbyint(number));
  }
}

void test_memory() {
  copy_rows<float, float>();
  copy_rows<bf16_t, float>();
  copy_rows<float, bf16_t>();
  copy_rows<bf16_t, bf16_t>();
  copy_rows<uint8_t, float>();
  copy_rows<uint8_t, bf16_t>();
  copy_rows<int8_t, float>();
  copy_rows<int8_t, bf16_t>();
  load_tails<float>();
  load_tails<bf16_t>();
  load_tails<uint8_t>();
  load_tails<int8_t>();
  round_to_bytes<uint8_t>();
  round_to_bytes<int8_t>();
}

// first(), sum() and max() over rows of every length.
void test_reductions() {
  for_each_count_and_misalignment([&](size_t count, size_t misalign, size_t) HWY_ATTR {
    Exact<float> x(count, misalign);
    for (size_t i = 0; i < count; i++) x.data[i] = static_cast<float>(i + 1);
    V total = hn::Zero(F()), ones = hn::Zero(F());
    for_each_vector(count, [&](size_t i, auto at, auto) HWY_ATTR {
      total = hn::Add(total, at(x.data));
      ones = hn::Add(ones, first(hn::Set(F(), 1.0f), i, count));
    });
    CHECK_EQUAL(sum(total), static_cast<float>(count * (count + 1) / 2));
    CHECK_EQUAL(sum(ones), static_cast<float>(count));
  });
  std::vector<float> values(lanes(), -kInfinity);
  CHECK_EQUAL(max(load(values.data())), -kInfinity);
  for (size_t i = 0; i < lanes(); i++) {
    std::fill(values.begin(), values.end(), -3.0f);
    values[i] = -2;
    CHECK_EQUAL(max(load(values.data())), -2.0f);
  }
}

// All 2³² floats fall into 65,536 upper halves and, below them, three cases that the rule tells apart; every upper half meets all
// three and their edges.
void test_bf16() {
  const std::vector<float>& values = all_exponents();
  const size_t n = lanes();
  std::vector<bf16_t> got(n);
  for (size_t i = 0; i + n <= values.size(); i += n) {
    store(load(values.data() + i), got.data());
    for (size_t lane = 0; lane < n; lane++) CHECK(got[lane] == bf16_of(values[i + lane]));
  }
  // Back: every bf16 is an f32, bit by bit.
  std::vector<bf16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); i++) halves[i] = static_cast<bf16_t>(i);
  std::vector<float> wide(n);
  for (size_t i = 0; i + n <= halves.size(); i += n) {
    store(load(halves.data() + i), wide.data());
    for (size_t lane = 0; lane < n; lane++) CHECK(bits_of(wide[lane]) == static_cast<uint32_t>(halves[i + lane]) << 16);
  }
}

// Runs `function` over `inputs` and compares with want(x), a double, within allowed(x, want).
template <class Function, class Want, class Allowed>
void compare(const char* name, const std::vector<float>& inputs, const Function& function, const Want& want,
             const Allowed& allowed) {
  Comparison comparison{name};
  const size_t n = lanes();
  std::vector<float> padded = inputs, got(n);
  padded.resize((inputs.size() + n - 1) / n * n, inputs.back());
  for (size_t i = 0; i < padded.size(); i += n) {
    store(function(load(padded.data() + i)), got.data());
    for (size_t lane = 0; lane < n; lane++) {
      const float x = padded[i + lane];
      const double expected = want(static_cast<double>(x));
      comparison.add(x, got[lane], expected, allowed(static_cast<double>(x), expected), __FILE__, __LINE__);
    }
  }
  if (getenv("SIDETUNE_TEST_VERBOSE"))
    printf("%s: %s: largest error is %.3f of what is allowed\n", context.c_str(), name, comparison.worst);
}

// Those of all_exponents() that lie in [low, high].
std::vector<float> between(float low, float high) {
  std::vector<float> list;
  for (float x : all_exponents())
    if (x >= low && x <= high) list.push_back(x);
  return list;
}

// A dense sweep: neighbours of every multiple of the range's 2^-18.
std::vector<float> dense(float low, float high) {
  std::vector<float> list;
  for (int i = 0; i <= 1 << 18; i++) list.push_back(low + (high - low) * static_cast<float>(i) / (1 << 18));
  return list;
}

const auto relative_bound = [](double relative, double absolute) {
  return [=](double, double want) { return relative * std::abs(want) + absolute; };
};

constexpr double kExpError = 1.5e-7;

void test_exp() {
  const auto want = [](double x) { return std::exp(x); };
  const auto function = [](V x) HWY_ATTR { return exp(x); };
  compare("exp", all_exponents(), function, want, relative_bound(kExpError, kLeast));
  compare("exp", dense(-104, 89), function, want, relative_bound(kExpError, kLeast));
  compare("exp", dense(-1, 1), function, want, relative_bound(kExpError, 0));
  const auto moderate = [](V x) HWY_ATTR { return exp_of_moderate(x); };
  compare("exp_of_moderate", between(-87, 88), moderate, want, relative_bound(kExpError, 0));
  compare("exp_of_moderate", dense(-87, 88), moderate, want, relative_bound(kExpError, 0));
}

void test_exp2() {
  const auto want = [](double x) { return std::exp2(x); };
  const auto function = [](V x) HWY_ATTR { return exp2(x); };
  // Where 2ˣ is no longer a normal number it may be 0.
  const auto allowed = [](double x, double want) { return x < -126 ? kNormal : 2e-7 * want; };
  compare("exp2", between(-kInfinity, 127), function, want, allowed);
  compare("exp2", dense(-130, 127), function, want, allowed);
  compare("exp2", {std::nanf(""), -std::nanf("")}, function, want, allowed);
  compare(
      "exp2", between(-kInfinity, -127), function, [](double) { return 0.0; }, relative_bound(0, 0));
}

void test_sigmoid() {
  const auto want = [](double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); };
  const auto function = [](V x) HWY_ATTR { return sigmoid(x); };
  compare("sigmoid", all_exponents(), function, want, relative_bound(4e-7, kLeast));
  compare("sigmoid", dense(-100, 20), function, want, relative_bound(4e-7, kLeast));
}

double normal_cdf_of(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double normal_density_of(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }

void test_normal() {
  const auto cdf = [](V x) HWY_ATTR { return normal_cdf(x); };
  // On the left the relative error counts: 5e-6 without fused multiply-add. Beyond -13.1 the tail counts as 0.
  const double tail = 2e-39;
  const auto cdf_bound = [=](double x, double want) { return x < 0 ? 5e-6 * want + tail : 2e-7; };
  for (const auto& inputs : {all_exponents(), dense(-15, 7)}) compare("normal_cdf", inputs, cdf, normal_cdf_of, cdf_bound);

  const auto gelu_want = [](double x) { return std::isinf(x) ? std::max(x, 0.0) : x * normal_cdf_of(x); };
  const auto gelu_bound = [=](double x, double want) {
    if (x > 0) return 3e-7 * want + kLeast;
    return 5e-6 * std::abs(want) + (std::isinf(x) ? 0 : (1 + std::abs(x)) * (x < -13 ? tail : kLeast));
  };
  for (const auto& inputs : {all_exponents(), dense(-15, 7)})
    compare(
        "gelu", inputs, [](V x) HWY_ATTR { return gelu(x); }, gelu_want, gelu_bound);

  const auto slope_want = [](double x) {
    return std::isinf(x) ? (x > 0 ? 1.0 : 0.0) : normal_cdf_of(x) + x * normal_density_of(x);
  };
  // It crosses zero near -0.75: an absolute bound there.
  const auto slope_bound = [](double, double want) { return 5e-6 * std::abs(want) + 2e-7; };
  for (const auto& inputs : {all_exponents(), dense(-15, 7)})
    compare(
        "gelu_derivative", inputs, [](V x) HWY_ATTR { return gelu_derivative(x); }, slope_want, slope_bound);

  // Beside bf16: absolute bounds up to 4.8, from there exactly x and 1, or 0 and 0.
  const auto coarse = [](double bound) {
    return [=](double x, double want) { return std::abs(x) < 4.8 ? bound + 2e-7 * std::abs(want) : 0; };
  };
  const auto beyond = [](double x, double here, double there) { return !(std::abs(x) >= 4.8) ? here : x > 0 ? there : 0; };
  for (const auto& inputs : {all_exponents(), dense(-15, 7)}) {
    compare(
        "gelu_for_half", inputs, [](V x) HWY_ATTR { return gelu_for_half(x); },
        [=](double x) { return beyond(x, gelu_want(x), x); }, coarse(1.1e-5));
    compare(
        "gelu_and_derivative_for_half", inputs, [](V x) HWY_ATTR { return gelu_and_derivative_for_half(x).value; },
        [=](double x) { return beyond(x, gelu_want(x), x); }, coarse(1.1e-5));
    compare(
        "gelu_and_derivative_for_half, derivative", inputs,
        [](V x) HWY_ATTR { return gelu_and_derivative_for_half(x).derivative; },
        [=](double x) { return beyond(x, slope_want(x), 1); }, coarse(1e-4));
  }
}

void test_swish() {
  for (float beta : {1.0f, 1.702f, 100.0f}) {
    const double b = beta;
    const auto sigmoid_of = [](double t) { return t < 0 ? std::exp(t) / (1 + std::exp(t)) : 1 / (1 + std::exp(-t)); };
    const auto want = [=](double x) { return x == -kInfinity ? 0.0 : x * sigmoid_of(b * x); };
    const auto slope = [=](double x) {
      const double t = std::max(-800.0, std::min(800.0, b * x)), s = sigmoid_of(t);
      return s * (1 + t * (1 - s));
    };
    // βx is rounded to f32 first: an error of |t| 2⁻²⁴ in the exponent. Below t = -87 the result is 0, and e⁸⁷ is 6e37.
    const auto allowed = [=](double x, double want) {
      return (5e-7 + std::abs(b * x) * 0x1p-23) * std::abs(want) + 87 / b * 2e-38;
    };
    const auto slope_allowed = [=](double x, double want) {
      return (5e-7 + std::min(std::abs(b * x), 90.0) * 0x1p-22) * std::abs(want) + 3e-7;
    };
    const std::vector<float> finite = between(-std::numeric_limits<float>::max(), std::numeric_limits<float>::max());
    const V v_beta = hn::Set(F(), beta);
    for (const auto& inputs : {finite, dense(-100 / beta, 20 / beta)}) {
      compare(
          "swish", inputs, [&](V x) HWY_ATTR { return swish(x, v_beta); }, want, allowed);
      compare(
          "swish_slope", inputs, [&](V x) HWY_ATTR { return swish_slope(x, v_beta); }, slope, slope_allowed);
    }
    compare(
        "swish", {std::nanf("")}, [&](V x) HWY_ATTR { return swish(x, v_beta); }, want, allowed);
  }
}

// NaN stays NaN on every target.
void test_limits() {
  const float nan = std::nanf("");
  for (float x : {nan, -1.0f, 0.0f, 3.0f, kInfinity, -kInfinity}) {
    std::vector<float> low(lanes()), high(lanes());
    store(at_least(hn::Set(F(), x), 0.5f), low.data());
    store(at_most(hn::Set(F(), x), 0.5f), high.data());
    CHECK(std::isnan(x) ? std::isnan(low[0]) : low[0] == std::max(x, 0.5f));
    CHECK(std::isnan(x) ? std::isnan(high[0]) : high[0] == std::min(x, 0.5f));
  }
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {
namespace {

HWY_EXPORT(test_memory);
HWY_EXPORT(test_reductions);
HWY_EXPORT(test_bf16);
HWY_EXPORT(test_exp);
HWY_EXPORT(test_exp2);
HWY_EXPORT(test_sigmoid);
HWY_EXPORT(test_normal);
HWY_EXPORT(test_swish);
HWY_EXPORT(test_limits);

template <class Body>
void for_each_target(const Body& body) {
  hwy::SetSupportedTargetsForTest(0);
  const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  for (int64_t target : targets) {
    testing::context = hwy::TargetName(target);
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

TEST(math_loads_and_stores) {
  for_each_target([] { HWY_DYNAMIC_DISPATCH(test_memory)(); });
}
TEST(math_reductions) {
  for_each_target([] { HWY_DYNAMIC_DISPATCH(test_reductions)(); });
}
TEST(math_bf16_rounding) {
  for_each_target([] { HWY_DYNAMIC_DISPATCH(test_bf16)(); });
}
TEST(math_exp) {
  for_each_target([] { HWY_DYNAMIC_DISPATCH(test_exp)(); });
}
TEST(math_exp2) {
  for_each_target([] { HWY_DYNAMIC_DISPATCH(test_exp2)(); });
}
TEST(math_sigmoid) {
  for_each_target([] { HWY_DYNAMIC_DISPATCH(test_sigmoid)(); });
}
TEST(math_normal_distribution) {
  for_each_target([] { HWY_DYNAMIC_DISPATCH(test_normal)(); });
}
TEST(math_swish) {
  for_each_target([] { HWY_DYNAMIC_DISPATCH(test_swish)(); });
}
TEST(math_limits) {
  for_each_target([] { HWY_DYNAMIC_DISPATCH(test_limits)(); });
}

}  // namespace
}  // namespace sidetune::cpu
#endif  // HWY_ONCE
