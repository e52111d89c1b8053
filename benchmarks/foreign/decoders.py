"""Decoders in NNX: those of google-tunix, of attnax and of mamba2-jax."""

import importlib
from typing import Any

import attnax
import jax.numpy as jnp
import mamba2_jax
import numpy as np
from flax import nnx

from benchmarks.foreign.model import Model, image, of_nnx, places, tokens

LENGTH = 8
SIZES: dict[str, Any] = {
    "num_layers": 2, "embed_dim": 64, "hidden_dim": 96, "num_heads": 8, "head_dim": 8,
    "num_kv_heads": 4,
}  # fmt: skip


def tunix(family: str, name: str, *, cached: bool = False, **options: Any) -> Model:
    """Returns a decoder of google-tunix, which gets its cache of 16 places as an input."""
    module = importlib.import_module(f"tunix.models.{family}.model")
    model = getattr(module, name)(module.ModelConfig(**SIZES, **options), rngs=nnx.Rngs(0))
    count, size = SIZES["num_kv_heads"], SIZES["head_dim"]
    cache, seen = None, LENGTH
    if cached:
        seen = 16
        line = {x: jnp.zeros((1, seen, count, size), jnp.float32) for x in "kv"}
        line["end_index"] = jnp.zeros((1,), jnp.int32)
        cache = {f"layer_{i}": dict(line) for i in range(SIZES["num_layers"])}
    mask = np.tril(np.ones((1, LENGTH, seen), bool))
    return of_nnx(model, tokens(LENGTH), places(LENGTH), cache, mask, cache=2 if cached else None)


def llama3(**options: Any) -> Model:
    """Returns Llama 3."""
    return tunix("llama3", "Llama3", vocab_size=100, rope_theta=10_000, norm_eps=1e-5, **options)


def qwen(version: int, **options: Any) -> Model:
    """Returns Qwen 2 or 3."""
    words = {"vocab_size": 100, "rope_theta": 10_000, "norm_eps": 1e-6, **options}
    return tunix(f"qwen{version}", f"Qwen{version}", **words)


def gemma2() -> Model:
    """Returns Gemma 2."""
    module = importlib.import_module("tunix.models.gemma.model")
    kinds = (module.AttentionType.LOCAL_SLIDING, module.AttentionType.GLOBAL)
    return tunix(
        "gemma", "Gemma", num_embed=100, final_logit_softcap=30.0, attn_logits_soft_cap=50.0,
        use_post_attn_norm=True, use_post_ffw_norm=True, attention_types=kinds,
        sliding_window_size=4,
    )  # fmt: skip


def gemma3(**options: Any) -> Model:
    """Returns Gemma 3."""
    return tunix(
        "gemma3", "Gemma3", num_embed=100, sliding_window_size=4, param_dtype=jnp.float32, **options
    )


def siglip() -> Model:
    """Returns the vision encoder of Gemma 3."""
    module = importlib.import_module("tunix.models.gemma3.vision")
    config = module.SigLIPConfig(
        num_mm_tokens_per_image_prepool=16, num_mm_tokens_per_image=4, image_height=16,
        image_width=16, patch_size=(4, 4), width=32, depth=2, mlp_dim=64, num_heads=4,
    )  # fmt: skip
    return of_nnx(module.SigLiP(config, rngs=nnx.Rngs(0)), image(16)[None])


def mamba2() -> Model:
    """Returns Mamba 2."""
    config = mamba2_jax.Mamba2Config(
        vocab_size=100, hidden_size=32, state_size=16, head_dim=16, chunk_size=8,
        num_hidden_layers=2,
    )  # fmt: skip
    model = mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))
    return of_nnx(model, tokens(16), method=lambda model, ids: model(ids)["logits"])


def attnax_decoder() -> Model:
    """Returns the decoder of attnax with four key heads."""
    config = attnax.TransformerConfig(
        vocab_size=100, d_model=64, num_heads=8, num_layers=2, d_ff=96, max_len=32, num_kv_heads=4
    )
    return of_nnx(attnax.TransformerDecoder(nnx.Rngs(0), config), tokens(LENGTH))


def attnax_vit() -> Model:
    """Returns the vision transformer of attnax."""
    config = attnax.VisionTransformerConfig(
        image_size=16, patch_size=4, num_classes=10, d_model=32, num_heads=4, num_layers=2, d_ff=64
    )
    return of_nnx(attnax.VisionTransformer(nnx.Rngs(0), config), image(16))
