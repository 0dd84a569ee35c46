#include "dropout.h"

#include "check.h"

namespace sidetune {

void Dropout::check(const char* kernel) const {
  if (rate >= 1) refuse_argument(kernel, "rate", "1", "a number from 0 to below 1");
}

}  // namespace sidetune
