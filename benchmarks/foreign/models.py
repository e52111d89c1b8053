"""The list, fixed before it was run: of those that were probed, all that PyPI gives; then others.

The first are the models of the earlier probe: Llama 3, Qwen 2 and 3 and the vision encoder of
Gemma 3 by google-tunix, DINO (that of transformers in the place of a version 3), Mamba 2
(mamba2-jax), T5 with gates (transformers' mT5 in the place of UMT5), Whisper, BERT and GPT-2 of
transformers, the U-Net of diffusers, ConvNeXt and ViT of equimo, Haiku's and Keras's networks. Of
each package some other architectures follow, as they come in its list of models. StyleGAN 2 of
flaxmodels does not run with JAX 0.10 (a keyword of reshape is gone), its GPT-2 not without a
download, and eqxvision, jaxnn, jimmy-vision and vitax do not import with it or with what it is
installed with.

Decoders have 8 heads and 4 of keys: with 2 of keys, as first run, what is left is one, for which
Gemma 2 and 3 run other code. Other models of jaxonmodels import torch.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import haiku as hk

from benchmarks.foreign import decoders, hugging_face, pictures
from benchmarks.foreign.model import Model


class Source(NamedTuple):
    """Where a model is from."""

    package: str
    framework: str
    make: Callable[[], Model]


_HF, _TUNIX, _PICTURES = hugging_face, decoders, pictures

MODELS: Mapping[str, Source] = {
    name: Source(package, framework, make)
    for package, framework, models in (
        ("google-tunix", "NNX", {
            "Llama 3": _TUNIX.llama3,
            "Llama 3, with a cache": partial(_TUNIX.llama3, cached=True),
            "Qwen 2": partial(_TUNIX.qwen, 2),
            "Qwen 3": partial(_TUNIX.qwen, 3),
            "Qwen 3, with a cache": partial(_TUNIX.qwen, 3, cached=True),
            "Qwen 3 with experts": partial(_TUNIX.qwen, 3, num_experts=4, num_experts_per_tok=2),
            "Gemma 2": _TUNIX.gemma2,
            "Gemma 3": _TUNIX.gemma3,
            "SigLIP of Gemma 3": _TUNIX.siglip,
        }),
        ("mamba2-jax", "NNX", {"Mamba 2": _TUNIX.mamba2}),
        ("attnax", "NNX", {
            "Decoder of attnax": _TUNIX.attnax_decoder,
            "ViT of attnax": _TUNIX.attnax_vit,
        }),
        ("jraphx", "NNX", {
            "GCN": partial(_PICTURES.jraphx, "GCN"),
            "GAT, 4 heads": partial(_PICTURES.jraphx, "GAT", heads=4),
        }),
        ("transformers", "Linen", {
            "BERT, 4 layers": _HF.bert,
            "GPT-2, 4 layers": _HF.gpt2,
            "Whisper, 2 + 2 layers": _HF.whisper,
            "RegNet": partial(_HF.residual, "RegNet", groups_width=16),
            "T5": _HF.t5,
            "mT5": partial(_HF.t5, "MT5", feed_forward_proj="gated-gelu"),
            "ViT": partial(_HF.looking, "ViT"),
            "CLIP": _HF.clip,
            "RoBERTa": partial(_HF.encoder, "Roberta"),
            "ELECTRA": partial(_HF.encoder, "Electra", embedding_size=32),
            "BART": _HF.bart,
            "OPT": _HF.opt,
            "Llama": _HF.llama,
            "Mistral": _HF.mistral,
            "GPT-J": _HF.gptj,
            "GPT-Neo": _HF.gpt_neo,
            "BEiT": partial(_HF.looking, "Beit", use_relative_position_bias=True),
            "DINOv2 of transformers": partial(_HF.looking, "Dinov2", use_swiglu_ffn=False),
            "ResNet": partial(_HF.residual, "ResNet"),
            "wav2vec 2.0": _HF.wav2vec2,
        }),
        ("diffusers", "Linen", {
            "U-Net of Stable Diffusion": _HF.unet,
            "VAE of Stable Diffusion": _HF.vae,
        }),
        ("jax-resnet", "Linen", {
            "ResNeXt-50": partial(_PICTURES.of_jax_resnet, "ResNeXt50"),
            "ResNeSt-50 fast": partial(_PICTURES.of_jax_resnet, "ResNeSt50Fast"),
        }),
        ("flaxmodels", "Linen", {
            "ResNet-18 of flaxmodels": partial(_PICTURES.of_flaxmodels, "ResNet18", 64),
            "VGG-16": partial(_PICTURES.of_flaxmodels, "VGG16", 224),
        }),
        ("nano-moe-jax", "Linen", {"NanoMoE": _PICTURES.nano_moe}),
        ("dm-haiku", "Haiku", {
            "ResNet-18": lambda: _PICTURES.of_haiku(lambda: hk.nets.ResNet18(10), 64),
            "ResNet-50": lambda: _PICTURES.of_haiku(lambda: hk.nets.ResNet50(10), 64),
            "MobileNet v1": lambda: _PICTURES.of_haiku(hk.nets.MobileNetV1, 64),
        }),
        ("keras", "Keras", {
            "MobileNetV3-Small": partial(_PICTURES.of_keras, "MobileNetV3Small", 64),
            "EfficientNet-B0": partial(_PICTURES.of_keras, "EfficientNetB0", 64),
            "ResNet-50 of Keras": partial(_PICTURES.of_keras, "ResNet50", 64),
            "DenseNet-121": partial(_PICTURES.of_keras, "DenseNet121", 64),
        }),
        ("equimo", "Equinox", {
            "ViT-Ti/16": partial(_PICTURES.of_equimo, "vit_tiny_patch16_224", 64, img_size=64),
            "ConvNeXt-T": partial(_PICTURES.of_equimo, "convnext_t", 64),
            "MobileNetV3 of equimo": partial(_PICTURES.of_equimo, "mobilenetv3_small", 64),
        }),
        ("jaxonmodels", "Equinox", {
            "ViT of CLIP": _PICTURES.jaxonmodels_vit,
            "Mamba": _PICTURES.jaxonmodels_mamba,
        }),
        ("pdequinox", "Equinox", {
            "Modern U-Net": partial(_PICTURES.of_pdequinox, "ModernUNet", num_levels=2),
            "FNO": partial(_PICTURES.of_pdequinox, "ClassicFNO", num_modes=4),
        }),
        ("esm2quinox", "Equinox", {"ESM-2": _PICTURES.esm2}),
    )
    for name, make in models.items()
}  # fmt: skip
