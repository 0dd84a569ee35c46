// The whole test framework. A file says TEST(name) { CHECK(condition); CHECK_EQUAL(actual, expected); }, and main() runs every
// test.
#pragma once

#include <sstream>
#include <string>
#include <vector>

namespace sidetune::testing {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& all_tests() {
  static std::vector<Test> tests;
  return tests;
}
inline bool add_test(const char* name, void (*run)()) {
  all_tests().push_back({name, run});
  return true;
}

// What a failure's line begins with, such as the SIMD target under test.
inline std::string context;

void fail(const char* file, int line, const std::string& message);

template <class A, class B>
void check_equal(const A& actual, const B& expected, const char* expression, const char* file, int line) {
  if (actual == expected) return;
  std::ostringstream text;
  text << expression << " is\n    " << actual << "\n  expected\n    " << expected;
  fail(file, line, text.str());
}

}  // namespace sidetune::testing

#define TEST(name)                                                                            \
  static void name();                                                                         \
  [[maybe_unused]] static const bool name##_added = sidetune::testing::add_test(#name, name); \
  static void name()
#define CHECK(condition) ((condition) ? void() : sidetune::testing::fail(__FILE__, __LINE__, #condition))
#define CHECK_EQUAL(actual, expected) sidetune::testing::check_equal(actual, expected, #actual, __FILE__, __LINE__)
