#include "native/elementwise.h"

#include "kernel.h"

SIDETUNE_BIND(AddForward, elementwise)
SIDETUNE_BIND(AddInto, elementwise)
SIDETUNE_BIND(Scale, elementwise)
SIDETUNE_BIND(Cast, elementwise)
SIDETUNE_BIND(Fill, elementwise)
SIDETUNE_BIND(ResidualAddForward, elementwise)
SIDETUNE_BIND(ResidualAddBackward, elementwise)
