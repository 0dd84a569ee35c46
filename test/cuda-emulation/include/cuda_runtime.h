// Stands in for the CUDA toolkit's header of this name, so that native/cuda compiles with the host compiler and runs on the CPU.
// It has what native/cuda uses and no more: what is missing here does not compile. See ../README.md.
#pragma once

#include "emulation/types.h"

#include "emulation/runtime_api.h"

#include "emulation/device.h"
