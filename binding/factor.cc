#include "native/factor.h"

#include "kernel.h"

SIDETUNE_BIND(FactorContractForward, factor)
SIDETUNE_BIND(FactorContractBackward, factor)
