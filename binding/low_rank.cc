#include "native/low_rank.h"

#include "kernel.h"

SIDETUNE_BIND(LowRankAccumulateForward, low_rank)
SIDETUNE_BIND(LowRankAccumulateBackward, low_rank)
SIDETUNE_BIND(LowRankUndo, low_rank)
SIDETUNE_BIND(LowRankProject, low_rank)
SIDETUNE_BIND(LowRankCombine, low_rank)
SIDETUNE_BIND(LowRankCombineBackward, low_rank)
