#include "native/scale_shift.h"

#include "kernel.h"

SIDETUNE_BIND(ScaleShiftForward, scale_shift)
SIDETUNE_BIND(ScaleShiftBackward, scale_shift)
