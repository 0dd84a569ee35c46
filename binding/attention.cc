#include "native/attention.h"

#include "kernel.h"

SIDETUNE_BIND(AttentionForward, attention)
SIDETUNE_BIND(AttentionBackward, attention)
SIDETUNE_BIND(ClassAttentionForward, attention)
