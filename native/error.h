// The one exception type of native host code. It is caught in exactly two places: the binding's guard and the stream's task
// runner.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <utility>

namespace sidetune {

enum class Code { argument, shape, dtype, disposed, modified, device, no_backend, late, memory };

struct Error : std::exception {
  Code code;
  std::string message;
  std::string kernel, argument, got, expected;

  Error(Code code, std::string message) : code(code), message(std::move(message)) {}
  Error(Code code, std::string kernel, std::string argument, std::string got, std::string expected, std::string message)
      : code(code),
        message(std::move(message)),
        kernel(std::move(kernel)),
        argument(std::move(argument)),
        got(std::move(got)),
        expected(std::move(expected)) {}
  const char* what() const noexcept override { return message.c_str(); }
};

// What a backend's kernel returns: errors cross a library's edge as a value, never as an exception.
struct Status {
  bool ok = true;
  Code code = Code::late;
  char text[256] = {};
  char argument[32] = {}, got[64] = {}, expected[128] = {};  // of an argument that was refused
  // Of a call that was started and looks at its data when the device gets there: it may fail yet, and BackendTable::settle says
  // so under this number.
  uint64_t ticket = 0;
};

}  // namespace sidetune
