// What the emulation has found, and the error that CUDA functions return.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "configuration.h"

namespace sidetune::emulation {

// Null for a name that is none.
const cudaError_t* error_of_name(const std::string& name);

// A mistake of the program under test: printed, and from then on cudaErrorLaunchFailure with this text, until cudaDeviceReset.
// The first one wins.
void report(const std::string& text);

// The error that stays, or cudaSuccess.
cudaError_t sticky_error();
void forget_sticky_error();

// Notes `error` for cudaGetLastError and returns it.
cudaError_t note(cudaError_t error);

// Every CUDA function begins with this: the injected failure of this call, or the error that stays, or cudaSuccess.
cudaError_t enter(const char* function);

// Reads SIDETUNE_EMULATION and counts calls from nought. False, with the text of the error set, where it has a mistake.
bool read_configuration();
Configuration configuration();

}  // namespace sidetune::emulation
