#include "native/gate.h"

#include "kernel.h"

SIDETUNE_BIND(GateForward, gate)
SIDETUNE_BIND(GateBackward, gate)
