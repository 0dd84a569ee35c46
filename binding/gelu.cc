#include "native/gelu.h"

#include "kernel.h"

SIDETUNE_BIND(GeluForward, gelu)
SIDETUNE_BIND(GeluBackward, gelu)
