#include "errors.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <stdexcept>

namespace sidetune::emulation {
namespace {

struct Entry {
  cudaError_t error;
  const char* name;
  const char* text;
  bool sticky;
};
constexpr Entry kErrors[] = {
#define SIDETUNE_ERROR(name, value, text, sticky) {name, #name, text, sticky},
    SIDETUNE_CUDA_ERRORS(SIDETUNE_ERROR)
#undef SIDETUNE_ERROR
};

const Entry* entry(cudaError_t error) {
  for (const Entry& candidate : kErrors)
    if (candidate.error == error) return &candidate;
  return nullptr;
}

struct State {
  std::mutex mutex;
  cudaError_t sticky = cudaSuccess;
  std::deque<std::string> reports;  // never forgotten: cudaGetErrorString gives out pointers to them
  bool is_configured = false;
  Configuration configuration;
  std::map<std::string, int64_t> calls;
  int64_t all_calls = 0;
};
State& state() {
  static State& lasting = *new State;  // threads may outlive static objects
  return lasting;
}

thread_local cudaError_t last_error = cudaSuccess;

// The mutex is held.
void add_report(State& s, const std::string& text) {
  s.reports.push_back(text);
  std::fprintf(stderr, "CUDA emulation: %s\n", text.c_str());
}

}  // namespace

const cudaError_t* error_of_name(const std::string& name) {
  for (const Entry& candidate : kErrors)
    if (name == candidate.name) return &candidate.error;
  return nullptr;
}

void report(const std::string& text) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.sticky != cudaSuccess) return;
  add_report(s, text);
  s.sticky = cudaErrorLaunchFailure;
}

cudaError_t sticky_error() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return s.sticky;
}

void forget_sticky_error() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.sticky = cudaSuccess;
}

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

bool read_configuration() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const char* text = std::getenv("SIDETUNE_EMULATION");
  s.is_configured = true;
  s.calls.clear();
  s.all_calls = 0;
  try {
    s.configuration = parse_configuration(text ? text : "");
    return true;
  } catch (const std::invalid_argument& error) {
    s.configuration = {};
    add_report(s, error.what());
    return false;
  }
}

Configuration configuration() {
  if (!state().is_configured) read_configuration();
  const std::lock_guard lock(state().mutex);
  return state().configuration;
}

cudaError_t enter(const char* function) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const int64_t call = ++s.calls[function], any_call = ++s.all_calls;
  const Configuration& c = s.configuration;
  const bool fails = c.failing == "any" ? any_call == c.failing_call : c.failing == function && call == c.failing_call;
  if (fails) {
    if (entry(c.failure)->sticky) s.sticky = c.failure;
    return note(c.failure);
  }
  return note(s.sticky);
}

}  // namespace sidetune::emulation

using namespace sidetune::emulation;

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() {
  const cudaError_t sticky = sticky_error();
  return sticky != cudaSuccess ? sticky : last_error;
}

const char* cudaGetErrorName(cudaError_t error) {
  const Entry* found = entry(error);
  return found ? found->name : "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (error == cudaErrorLaunchFailure && !s.reports.empty()) return s.reports.back().c_str();
  const Entry* found = entry(error);
  return found ? found->text : "unrecognized error code";
}

}  // extern "C"
