#include "native/mlp.h"

#include "kernel.h"

SIDETUNE_BIND(MlpForward, mlp)
SIDETUNE_BIND(MlpBackward, mlp)
SIDETUNE_BIND(MlpMeanForward, mlp)
SIDETUNE_BIND(MlpMeanBackward, mlp)
