#include "native/side_inject.h"

#include "kernel.h"

SIDETUNE_BIND(SideInjectForward, side_inject)
SIDETUNE_BIND(SideInjectBackward, side_inject)
SIDETUNE_BIND(SideInjectLowRankForward, side_inject)
SIDETUNE_BIND(SideInjectLowRankBackward, side_inject)
