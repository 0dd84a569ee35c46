#include "native/pool.h"

#include "kernel.h"

SIDETUNE_BIND(PoolForward, pool)
SIDETUNE_BIND(PoolBackward, pool)
