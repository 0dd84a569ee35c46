// What every CPU kernel file includes: the device's state, and the macro that enters a kernel into the table.
//
// A family's file defines, in namespace sidetune::cpu,
//   void run(Cpu& cpu, const LayerNormForward& k, Workspace scratch);
//   int64_t workspace(Cpu& cpu, const LayerNormBackward& k);            // only if it needs scratch memory
// and, once per kernel, SIDETUNE_CPU_KERNEL(LayerNormForward).
#pragma once

#include <cstring>
#include <memory>

#include "../backend.h"
#include "../status.h"
#include "cores.h"

namespace sidetune {

namespace cpu {
class GemmCache;
}

// The CPU device: how many threads its kernels use, and oneDNN's primitives by shape.
struct BackendDevice {
  explicit BackendDevice(int threads);

  const int threads;  // at most: scratch memory is for so many
  int team;           // of the kernel that runs. The stream thread's own.
  cpu::CoreShare share;
  const std::shared_ptr<cpu::GemmCache> gemms;
};

namespace cpu {

using Cpu = BackendDevice;

template <class Arguments>
int64_t workspace(Cpu&, const Arguments&) {
  return 0;
}

template <class Arguments>
Entry<Arguments> entry();

// A kernel's threads, while it runs.
struct Team {
  Cpu& cpu;
  explicit Team(Cpu& cpu) : cpu(cpu) { cpu.team = cpu.share.begin(); }
  ~Team() { cpu.share.end(); }
  Team(const Team&) = delete;
};

}  // namespace cpu
}  // namespace sidetune

#define SIDETUNE_CPU_KERNEL(Arguments)                                                           \
  template <>                                                                                    \
  ::sidetune::Entry<::sidetune::Arguments> entry<::sidetune::Arguments>() {                      \
    return {[](Cpu& cpu, const ::sidetune::Arguments& k, Workspace scratch) noexcept -> Status { \
              try {                                                                              \
                const Team team(cpu);                                                            \
                run(cpu, k, scratch);                                                            \
                return {};                                                                       \
              } catch (...) {                                                                    \
                return status_of_current_exception();                                            \
              }                                                                                  \
            },                                                                                   \
            [](Cpu& cpu, const ::sidetune::Arguments& k, int64_t* bytes) noexcept -> Status {    \
              try {                                                                              \
                *bytes = workspace(cpu, k);                                                      \
                return {};                                                                       \
              } catch (...) {                                                                    \
                return status_of_current_exception();                                            \
              }                                                                                  \
            }};                                                                                  \
  }
