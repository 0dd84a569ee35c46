#include "native/cross_entropy.h"

#include "kernel.h"

SIDETUNE_BIND(SoftmaxCrossEntropyForward, cross_entropy)
SIDETUNE_BIND(SoftmaxCrossEntropyBackward, cross_entropy)
