// Watches the loads and stores of kernels. Kernels are compiled with -fsanitize=thread, which puts a call before each of them
// (checker_hooks.cc); the sanitizer's own library is not linked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace sidetune::emulation {

enum class Access { read, write, atomic };

// Where a load or store is in the source: an instruction, or a place that the runtime was told.
struct Site {
  const void* instruction;  // null: `file` and `line`
  const char* file;
  int line;
};

// A load or store of the thread that runs. Does nothing outside of kernels.
void check_access(const void* data, size_t bytes, Access access, const void* instruction);

// "file:line" of an instruction, and "(for file:line)" of the code that it was inlined into; as far as debugging information
// tells.
std::string text_of_instruction(const void* instruction);

}  // namespace sidetune::emulation
