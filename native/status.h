// How backends make a Status.
#pragma once

#include <cstdio>
#include <new>
#include <string>

#include "error.h"

namespace sidetune {

inline Status failure(Code code, const std::string& text) {
  Status status;
  status.ok = false;
  status.code = code;
  snprintf(status.text, sizeof status.text, "%s", text.c_str());
  return status;
}

// What was asked for, by an option or by the environment, and cannot be had.
inline Status refusal(const char* argument, const std::string& got, const std::string& expected) {
  Status status = failure(Code::argument, std::string("'") + argument + "' is " + got + ", expected " + expected);
  snprintf(status.argument, sizeof status.argument, "%s", argument);
  snprintf(status.got, sizeof status.got, "%s", got.c_str());
  snprintf(status.expected, sizeof status.expected, "%s", expected.c_str());
  return status;
}

// Inside a catch block.
inline Status status_of_current_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return failure(error.code, error.message);
  } catch (const std::bad_alloc&) {
    return failure(Code::memory, "out of memory");
  } catch (const std::exception& error) {
    return failure(Code::late, error.what());
  } catch (...) {
    return failure(Code::late, "unknown error");
  }
}

}  // namespace sidetune
