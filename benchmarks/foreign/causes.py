"""Why a model does not resize wholly, read in its code."""

from collections.abc import Mapping

_HEAD = "one head size for queries and values, of which the rotary embedding holds the queries'"
_OLD = "no search yet for what a plain function closes over"
_SHAPE = "no attribute exists: it reshapes by the shape of what it got, before a cut layer"

CAUSES: Mapping[str, str] = {
    "Llama 3": _HEAD,
    "Qwen 2": _HEAD,
    "Qwen 3": _HEAD,
    "Qwen 3 with experts": _HEAD,
    "Llama": _HEAD,
    "Mistral": _HEAD,
    "GPT-J": _HEAD,
    "Decoder of attnax": "no attribute exists: it repeats no keys where there are as many as queries",
    "U-Net of Stable Diffusion": _SHAPE,
    **dict.fromkeys(("MobileNetV3-Small", "EfficientNet-B0", "ResNet-50 of Keras"), _OLD),
    **dict.fromkeys(("DenseNet-121", "ViT-Ti/16", "ConvNeXt-T", "MobileNetV3 of equimo"), _OLD),
    **dict.fromkeys(("ResNet-18 of jaxonmodels", "ViT of CLIP", "Swin-T", "Mamba"), _OLD),
    **dict.fromkeys(("ConvNeXt-T of jaxonmodels", "Modern U-Net", "ESM-2"), _OLD),
}
