#include "native/dropout.h"

#include "kernel.h"

SIDETUNE_BIND(Dropout, dropout)
