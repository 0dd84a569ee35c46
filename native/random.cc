#include "random.h"

#include "check.h"

namespace sidetune {

void RandomUniform::check(const char* kernel) const {
  const auto text = [](float value) {
    char digits[32];
    snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));
    return std::string(digits);
  };
  if (high < low) refuse_argument(kernel, "high", text(high), "at least 'low' = " + text(low));
  if (!(high - low <= std::numeric_limits<float>::max()))
    refuse_argument(kernel, "high", text(high), "a finite width high - low");
}

}  // namespace sidetune
