#include "native/swish.h"

#include "kernel.h"

SIDETUNE_BIND(SwishForward, swish)
SIDETUNE_BIND(SwishBackward, swish)
