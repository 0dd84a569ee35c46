#include "native/relu.h"

#include "kernel.h"

SIDETUNE_BIND(ReluForward, relu)
SIDETUNE_BIND(ReluBackward, relu)
