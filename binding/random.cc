#include "native/random.h"

#include "kernel.h"

SIDETUNE_BIND(RandomUniform, random)
SIDETUNE_BIND(RandomNormal, random)
SIDETUNE_BIND(RandomKeep, random)
