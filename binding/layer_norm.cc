#include "native/layer_norm.h"

#include "kernel.h"

SIDETUNE_BIND(LayerNormForward, layer_norm)
SIDETUNE_BIND(LayerNormProjectForward, layer_norm)
SIDETUNE_BIND(LayerNormBackward, layer_norm)
