#include "native/prompt.h"

#include "kernel.h"

SIDETUNE_BIND(PromptForward, prompt)
SIDETUNE_BIND(PromptBackward, prompt)
