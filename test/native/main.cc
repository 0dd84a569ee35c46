// Runs every test, or those whose names contain the first argument. The last line is the count; the status is 1 when one failed.
#include <cstdio>
#include <cstring>
#include <exception>

#include "testing.h"

namespace sidetune::testing {
namespace {

constexpr int kFailuresShown = 20;  // of one test
int failures = 0;                   // of the test that runs

}  // namespace

void fail(const char* file, int line, const std::string& message) {
  if (++failures <= kFailuresShown) {
    std::printf("%s:%d: %s%s%s\n", file, line, context.c_str(), context.empty() ? "" : ": ", message.c_str());
  }
}

static int run_all(const char* part) {
  int passed = 0, failed = 0;
  for (const Test& test : all_tests()) {
    if (!std::strstr(test.name, part)) continue;
    failures = 0;
    context.clear();
    try {
      test.run();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("threw: ") + error.what());
    }
    if (failures) std::printf("FAILED %s (%d checks)\n", test.name, failures);
    failures ? failed++ : passed++;
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed || !passed ? 1 : 0;
}

}  // namespace sidetune::testing

int main(int count, char** arguments) { return sidetune::testing::run_all(count > 1 ? arguments[1] : ""); }
