#include "native/mlp.h"

#include "kernel.h"

SIDETUNE_BIND(MlpForward, mlp)
SIDETUNE_BIND(MlpBackward, mlp)
