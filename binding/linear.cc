#include "native/linear.h"

#include "kernel.h"

SIDETUNE_BIND(LinearForward, linear)
SIDETUNE_BIND(LinearBackward, linear)
SIDETUNE_BIND(LinearPack, linear)
SIDETUNE_BIND(LinearAddForward, linear)
SIDETUNE_BIND(LinearAddBackward, linear)
