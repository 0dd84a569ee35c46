#include "native/low_rank.h"

#include "kernel.h"

SIDETUNE_BIND(LowRankAccumulateForward, low_rank)
SIDETUNE_BIND(LowRankAccumulateBackward, low_rank)
SIDETUNE_BIND(LowRankUndo, low_rank)
SIDETUNE_BIND(LowRankProjectForward, low_rank)
SIDETUNE_BIND(LowRankProjectBackward, low_rank)
SIDETUNE_BIND(LowRankCombineForward, low_rank)
SIDETUNE_BIND(LowRankCombineBackward, low_rank)
