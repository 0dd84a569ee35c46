#include <string>
#include "gemm.h"
namespace sidetune::cpu { int64_t packed_bytes(Cpu&,int64_t r,int64_t c,DType d,Layout){return r*c*size_of(d);} std::string gemm_description(){return "x";} bool gemm_has_bf16(){return true;} }
