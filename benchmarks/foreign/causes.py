"""Why a model does not resize wholly, read in its code."""

from collections.abc import Mapping

NO_ATTRIBUTE = "no attribute exists"
_HEAD = (
    f"{NO_ATTRIBUTE} for the size of the values alone: one head size serves queries too, and of "
    "these the rotary embedding holds it"
)

CAUSES: Mapping[str, str] = {
    "Llama 3": _HEAD,
    "Llama 3, with a cache": _HEAD,
    "Qwen 2": _HEAD,
    "Qwen 3": _HEAD,
    "Qwen 3, with a cache": _HEAD,
    "Qwen 3 with experts": _HEAD,
    "Llama": _HEAD,
    "Mistral": _HEAD,
    "GPT-J": _HEAD,
    "Decoder of attnax": f"{NO_ATTRIBUTE}: where keys are as many as queries it runs others",
    "U-Net of Stable Diffusion": f"{NO_ATTRIBUTE}: it reshapes by the width of its input, which a "
    "layer then cuts",
    "NanoMoE": f"{NO_ATTRIBUTE}: its head size is the width of the stream over the heads",
    "ESM-2": "not found: one jit asks for several sizes at once, and what raises in it hides "
    "how far a try came",
    "ViT of CLIP": f"{NO_ATTRIBUTE}: it asserts that heads times head size are the stream",
}
