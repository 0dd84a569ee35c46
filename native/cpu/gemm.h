#pragma once
#include "backend.h"
namespace sidetune::cpu { class GemmCache {}; int64_t packed_bytes(Cpu&,int64_t,int64_t,DType,Layout); std::string gemm_description(); bool gemm_has_bf16(); }
