"""Why a model does not resize wholly, read in its code."""

from collections.abc import Mapping

_HEAD = "one head size for queries and values, of which the rotary embedding holds the queries'"
_BEFORE = "no attribute exists: it reshapes by the width of its input, which a layer then cuts"

CAUSES: Mapping[str, str] = {
    "Llama 3": _HEAD,
    "Qwen 2": _HEAD,
    "Qwen 3": _HEAD,
    "Qwen 3 with experts": _HEAD,
    "Llama": _HEAD,
    "Mistral": _HEAD,
    "GPT-J": _HEAD,
    "Decoder of attnax": "no attribute exists: where keys are as many as queries it runs others",
    "U-Net of Stable Diffusion": _BEFORE,
    "VAE of Stable Diffusion": "not found: the number of latents stands in a configuration that is "
    "no field of the module",
    "NanoMoE": "no attribute exists: its head size is the width of the stream over the heads",
    "ViT of CLIP": "no attribute exists: it asserts that heads times head size are the stream",
    "Mamba": "limit of the check: an integer that wraps an index of a vmapped look-up follows",
    "ESM-2": "not found: it is jitted inside, and what raises there hides how far a try came",
}
