#include "native/slice.h"

#include "kernel.h"

SIDETUNE_BIND(SliceForward, slice)
SIDETUNE_BIND(SliceBackward, slice)
