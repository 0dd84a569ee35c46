#include "native/depthwise_conv.h"

#include "kernel.h"

SIDETUNE_BIND(DepthwiseConvForward, depthwise_conv)
SIDETUNE_BIND(DepthwiseConvBackward, depthwise_conv)
