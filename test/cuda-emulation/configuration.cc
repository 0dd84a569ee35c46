#include "configuration.h"

#include <charconv>
#include <sstream>
#include <stdexcept>

#include "errors.h"

namespace sidetune::emulation {
namespace {

[[noreturn]] void refuse(const std::string& key, const std::string& value, const std::string& expected) {
  throw std::invalid_argument("SIDETUNE_EMULATION: '" + key + "' is '" + value + "', expected " + expected);
}

int64_t whole_number(const std::string& key, const std::string& value, int64_t least, int64_t most) {
  int64_t number = 0;
  const char* end = value.data() + value.size();
  const auto [rest, error] = std::from_chars(value.data(), end, number);
  if (error != std::errc() || rest != end || number < least || number > most)
    refuse(key, value, "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  return number;
}

void set_failure(Configuration& configuration, const std::string& value) {
  const size_t first = value.find(':'), second = value.find(':', first + 1);
  if (first == std::string::npos || second == std::string::npos) refuse("fail", value, "FUNCTION:CALL:ERROR");
  configuration.failing = value.substr(0, first);
  configuration.failing_call = whole_number("fail", value.substr(first + 1, second - first - 1), 1, int64_t{1} << 40);
  const cudaError_t* error = error_of_name(value.substr(second + 1));
  if (!error || *error == cudaSuccess) refuse("fail", value, "the name of an error, such as cudaErrorMemoryAllocation");
  configuration.failure = *error;
}

void leave_out(Configuration& configuration, const std::string& value) {
  const size_t colon = value.find(':');
  if (colon == std::string::npos) refuse("without", value, "FILE:LINE of a barrier");
  configuration.left_out_file = value.substr(0, colon);
  configuration.left_out_line = static_cast<int>(whole_number("without", value.substr(colon + 1), 1, INT32_MAX));
}

void set(Configuration& configuration, const std::string& key, const std::string& value) {
  if (key == "sms") {
    configuration.multiprocessors = static_cast<int>(whole_number(key, value, 1, 1024));
  } else if (key == "shared") {
    configuration.most_shared_bytes = static_cast<size_t>(whole_number(key, value, 48, 227)) << 10;
  } else if (key == "capability") {
    const size_t dot = value.find('.');
    if (dot == std::string::npos) refuse(key, value, "two numbers, such as 8.0");
    configuration.major = static_cast<int>(whole_number(key, value.substr(0, dot), 1, 99));
    configuration.minor = static_cast<int>(whole_number(key, value.substr(dot + 1), 0, 9));
  } else if (key == "order") {
    if (value != "ascending" && value != "descending" && value != "shuffled")
      refuse(key, value, "ascending, descending or shuffled");
    configuration.order = value == "ascending" ? Order::ascending : value == "descending" ? Order::descending : Order::shuffled;
  } else if (key == "seed") {
    configuration.seed = static_cast<uint64_t>(whole_number(key, value, 0, INT64_MAX));
  } else if (key == "streams") {
    if (value != "immediate" && value != "deferred") refuse(key, value, "immediate or deferred");
    configuration.deferred = value == "deferred";
  } else if (key == "memory") {
    configuration.memory_bytes = static_cast<size_t>(whole_number(key, value, 1, int64_t{1} << 46));
  } else if (key == "fail") {
    set_failure(configuration, value);
  } else if (key == "without") {
    leave_out(configuration, value);
  } else {
    throw std::invalid_argument("SIDETUNE_EMULATION: unknown key '" + key +
                                "', known: sms, shared, capability, order, seed, streams, memory, fail, without");
  }
}

}  // namespace

Configuration parse_configuration(const std::string& text) {
  Configuration configuration;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    set(configuration, word.substr(0, equals), equals == std::string::npos ? "" : word.substr(equals + 1));
  }
  return configuration;
}

}  // namespace sidetune::emulation
