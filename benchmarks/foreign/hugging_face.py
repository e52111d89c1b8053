"""Models of transformers 4 and of diffusers, in Linen."""

from types import SimpleNamespace
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import transformers as hf
from transformers.models.t5 import modeling_flax_t5

from benchmarks.foreign.model import Model, image, linen, numbers, places, tokens

IDS = tokens(16)
SEEN = IDS * 0 + 1
TWO = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}
WORDS = {"input_ids": IDS, "attention_mask": SEEN, "position_ids": places(16)}
BOTH = {"input_ids": IDS, "attention_mask": SEEN} | {
    "decoder_input_ids": tokens(8), "decoder_attention_mask": tokens(8) * 0 + 1
}  # fmt: skip


def built(kind: str, config: Any, inputs: dict[str, Any], output: Any, **options: Any) -> Model:
    """Returns the Linen module of a Flax model at inference."""
    model = getattr(hf, f"Flax{kind}")(config, _do_init=False, **options)
    shapes = model.params_shape_tree
    variables = shapes if "params" in shapes else {"params": shapes}
    return linen(
        model.module,
        jax.tree.map(lambda x: x, dict(variables)),
        inputs,
        output=output,
        return_dict=True,
    )


def encoder(name: str, **options: Any) -> Model:
    """Returns an encoder of text with a classifier."""
    config = getattr(hf, f"{name}Config")(**TWO, **WIDE, **options)
    inputs = WORDS | {"token_type_ids": IDS * 0, "head_mask": None}
    return built(f"{name}ForSequenceClassification", config, inputs, "logits")


def bert() -> Model:
    """Returns BERT of 4 layers with a classifier."""
    config = hf.BertConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512
    )
    inputs = WORDS | {"token_type_ids": IDS * 0, "head_mask": None}
    return built("BertForSequenceClassification", config, inputs, "logits")


def gpt2() -> Model:
    """Returns GPT-2 of 4 layers; its output is the transposed embedding."""
    config = hf.GPT2Config(vocab_size=1000, n_embd=128, n_layer=4, n_head=4)
    return built("GPT2LMHeadModel", config, WORDS, "logits")


def gptj() -> Model:
    """Returns GPT-J, whose rotary angles come from a table."""
    config = hf.GPTJConfig(
        vocab_size=100, n_positions=32, n_embd=64, n_layer=2, n_head=4, rotary_dim=8
    )
    return built("GPTJForCausalLM", config, WORDS, "logits")


def gpt_neo() -> Model:
    """Returns GPT-Neo with global and local attention."""
    config = hf.GPTNeoConfig(
        vocab_size=100, max_position_embeddings=32, hidden_size=64, num_layers=2, num_heads=4,
        attention_types=[[["global", "local"], 1]], window_size=8,
    )  # fmt: skip
    return built("GPTNeoForCausalLM", config, WORDS, "logits")


def opt() -> Model:
    """Returns OPT."""
    config = hf.OPTConfig(
        **TWO, hidden_size=64, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=32
    )
    return built("OPTForCausalLM", config, WORDS, "logits")


def llama() -> Model:
    """Returns Llama with four key heads."""
    config = hf.LlamaConfig(**(TWO | HEADS), **WIDE, max_position_embeddings=32)
    return built("LlamaForCausalLM", config, WORDS, "logits")


def mistral() -> Model:
    """Returns Mistral with four key heads."""
    config = hf.MistralConfig(**(TWO | HEADS), **WIDE, max_position_embeddings=32)
    return built("MistralForCausalLM", config, WORDS, "logits")


def bart() -> Model:
    """Returns BART with an encoder and a decoder of 2 layers."""
    config = hf.BartConfig(
        vocab_size=100, d_model=64, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=128,
        decoder_ffn_dim=128, encoder_attention_heads=4, decoder_attention_heads=4,
        max_position_embeddings=32,
    )  # fmt: skip
    inputs = BOTH | {"position_ids": places(16), "decoder_position_ids": places(8)}
    return built("BartForConditionalGeneration", config, inputs, "logits")


def _clip(x: Any, a_min: Any = None, a_max: Any = None) -> Any:
    return jnp.clip(x, a_min, a_max)


modeling_flax_t5.jnp = SimpleNamespace(**vars(jnp) | {"clip": _clip})  # JAX has no a_max any more


def t5(kind: str = "T5", **options: Any) -> Model:
    """Returns T5 with an encoder and a decoder of 2 layers."""
    config = getattr(hf, f"{kind}Config")(
        vocab_size=100, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, **options
    )
    return built(f"{kind}ForConditionalGeneration", config, BOTH, "logits")


def whisper() -> Model:
    """Returns Whisper with an encoder and a decoder of 2 layers."""
    config = hf.WhisperConfig(
        vocab_size=100, d_model=64, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=256,
        decoder_ffn_dim=256, num_mel_bins=16, max_source_positions=20, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    inputs = {
        "input_features": numbers(1, 16, 40), "decoder_input_ids": tokens(8),
        "decoder_attention_mask": tokens(8) * 0 + 1, "decoder_position_ids": places(8),
    }  # fmt: skip
    return built(
        "WhisperForConditionalGeneration", config, inputs, "logits", input_shape=(1, 16, 40)
    )


def looking(name: str, **options: Any) -> Model:
    """Returns a vision transformer with a classifier."""
    config = getattr(hf, f"{name}Config")(
        num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8, num_labels=10,
        **WIDE, **options,
    )  # fmt: skip
    inputs = {"pixel_values": image(32)}
    return built(f"{name}ForImageClassification", config, inputs, "logits")


def clip() -> Model:
    """Returns CLIP, whose two towers meet in a scalar product."""
    config = hf.CLIPConfig(
        text_config={**TWO, **WIDE, "max_position_embeddings": 16, "eos_token_id": 99},
        vision_config={**WIDE, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    inputs = WORDS | {"pixel_values": image(32)}
    return built("CLIPModel", config, inputs, "logits_per_image")


def residual(name: str, **options: Any) -> Model:
    """Returns a convolutional network."""
    config = getattr(hf, f"{name}Config")(
        embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 2, 1], **options
    )
    inputs = {"pixel_values": image(64)}
    return built(f"{name}ForImageClassification", config, inputs, "logits")


def wav2vec2() -> Model:
    """Returns wav2vec 2.0 with its convolutions over sound."""
    config = hf.Wav2Vec2Config(
        **TWO, **WIDE, conv_dim=(32, 32), conv_stride=(5, 2), conv_kernel=(10, 3),
        num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        do_stable_layer_norm=True, feat_extract_norm="layer",
    )  # fmt: skip
    inputs = {"input_values": numbers(1, 400), "attention_mask": None}
    return built("Wav2Vec2ForCTC", config, inputs, "logits", input_shape=(1, 400))


def unet() -> Model:
    """Returns the U-Net of Stable Diffusion."""
    module = diffusers.FlaxUNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=4,
        cross_attention_dim=16, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    params = jax.eval_shape(module.init_weights, jax.random.key(0))
    noisy, words = numbers(1, 4, 8, 8), numbers(1, 6, 16)
    steps = jnp.ones((1,), jnp.int32)
    return linen(module, {"params": params}, noisy, steps, words, output="sample")


def vae() -> Model:
    """Returns the decoder and encoder of Stable Diffusion."""
    module = diffusers.FlaxAutoencoderKL(
        block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    params = jax.eval_shape(module.init_weights, jax.random.key(0))
    return linen(module, {"params": params}, image(16, first=True), output="sample")
