#include "native/side_inject.h"

#include "kernel.h"

SIDETUNE_BIND(SideInjectForward, side_inject)
SIDETUNE_BIND(SideInjectBackward, side_inject)
SIDETUNE_BIND(SideStepForward, side_inject)
SIDETUNE_BIND(SideStepBackward, side_inject)
