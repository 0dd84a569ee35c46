#include "native/adamw.h"

#include "kernel.h"

SIDETUNE_BIND(AdamwUpdate, adamw)
