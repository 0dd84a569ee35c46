#include "native/patch_embed.h"

#include "kernel.h"

SIDETUNE_BIND(PatchEmbedForward, patch_embed)
SIDETUNE_BIND(PatchEmbedBackward, patch_embed)
SIDETUNE_BIND(EmbedTokensForward, patch_embed)
SIDETUNE_BIND(EmbedTokensBackward, patch_embed)
