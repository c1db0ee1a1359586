"""Convert autoencoders and text encoders to the configs of diffusers and transformers, and build the tokenizer's files."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ldm_train.autoencoders.autoencoder import KLAutoencoder
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.conditioners.tokenizer import Tokenizer

START, END, PADDING = "<|startoftext|>", "<|endoftext|>", "<|padding|>"


@dataclass(frozen=True)
class ExportedEncoder:
    """An exported encoder.

    Args:
        config: its config in the published layout.
        tensors: its tensors, under the names of its own class.
        notes: for the model card.
        unused: tensors that do not affect any output, but that some readers of the layout require.
    """

    config: dict[str, object]
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    unused: Mapping[str, Tensor] = field(default_factory=dict)


def export_autoencoder(autoencoder: KLAutoencoder, *, scale: float | None = None) -> ExportedEncoder:
    """Return an AutoencoderKL with its latents' shift moved into biases, because Stable Diffusion pipelines apply no shift.

    The raw latents are z / k + shift. The 1x1 convolutions directly before and after them can absorb both exactly.

    Args:
        scale: by which a pipeline multiplies raw latents z, whatever the config says; None for the autoencoder's own.

    Raises:
        ValueError: there is a shift or another scale, but no such convolutions.
    """
    config: dict[str, object] = json.loads(autoencoder.model.to_json_string())
    tensors = {name: tensor.detach() for name, tensor in autoencoder.model.state_dict().items()}
    scaling, count = Scaling.of(autoencoder).before(scale), autoencoder.channels
    factor = scaling.scale
    if autoencoder.shift == 0 and factor == 1:
        return ExportedEncoder(config, tensors)
    names = ("quant_conv.weight", "quant_conv.bias", "post_quant_conv.weight", "post_quant_conv.bias")
    if any(name not in tensors for name in names):
        raise ValueError(
            f"autoencoder.shift={autoencoder.shift} and scale={autoencoder.scale}: pipelines apply no shift"
            f"{'' if scale is None else f' and a scale of {scale}'}, and it has no quant_conv to absorb it"
        )
    before, bias, after, last = (tensors[name].double() for name in names)
    moved = {
        names[0]: torch.cat([factor * before[:count], before[count:]]),
        names[1]: torch.cat([scaling.to_model(bias[:count]), bias[count:] + 2 * math.log(factor)]),
        names[2]: after / factor,
        names[3]: last + after.flatten(1) @ after.new_full((count,), autoencoder.shift),
    }
    what = f"shift of {autoencoder.shift:.6g}" + ("" if factor == 1 else f" and scale of {autoencoder.scale:.6g}")
    why = "apply no shift" if scale is None else f"apply no shift, and a scale of {scale:.6g}"
    note = (
        f"the latents' {what} {'was' if factor == 1 else 'were'} moved into quant_conv and post_quant_conv, because these "
        f"pipelines {why}; all other weights are unchanged"
    )
    config |= {"shift_factor": None, "scaling_factor": autoencoder.scale if scale is None else scale}
    return ExportedEncoder(config, tensors | {n: t.float() for n, t in moved.items()}, (note,))


def export_text_encoder(encoder: TextEncoder) -> ExportedEncoder:
    """Return the config of CLIPTextModel and the tower's tensors under open_clip's names, without new words.

    If the output of the penultimate layer is used, the last layer is in `unused`, as Stable Diffusion 2 leaves it out.
    """
    tower = encoder.tower
    assert tower is not None
    blocks = list(tower.transformer.resblocks)
    count = len(blocks) - (encoder.layer == "penultimate")
    first: nn.Module = blocks[0]
    config: dict[str, object] = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "attention_dropout": 0.0,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": encoder.pad_token,
        "hidden_act": "gelu" if isinstance(first.mlp.gelu, nn.GELU) else "quick_gelu",  # type: ignore[union-attr]
        "hidden_size": encoder.context_width,
        "intermediate_size": first.mlp.c_fc.out_features,  # type: ignore[union-attr]
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": encoder.context_length,
        "num_attention_heads": first.attn.num_heads,  # type: ignore[union-attr]
        "num_hidden_layers": count,
        "projection_dim": encoder.context_width,
        "vocab_size": tower.vocab_size,
    }
    left_out = ("text_projection", "token_embedding.learned")
    state = {name: t.detach() for name, t in tower.state_dict().items() if not name.startswith(left_out)}
    unused = {name: t for name, t in state.items() if name.startswith(f"transformer.resblocks.{count}.")}
    return ExportedEncoder(config, {name: t for name, t in state.items() if name not in unused}, unused=unused)


def build_tokenizer_files(encoder: TextEncoder) -> dict[str, str]:
    """Return the content of CLIPTokenizer's files by name; ids are those of open_clip's tokenizer.

    Padding with id 0 gets a token of its own. Stable Diffusion 2 uses "!", which has the same id, so it takes every
    exclamation mark in a prompt as padding; here a prompt is encoded as in training.
    """
    tokenizer = Tokenizer(context_length=encoder.context_length)
    special = {tokenizer.sot_token_id: START, tokenizer.eot_token_id: END}
    numbers = {special.get(number, token): number for token, number in tokenizer.encoder.items()}
    padding = special.get(encoder.pad_token, PADDING)
    words = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": encoder.context_length,
    }
    return {
        "vocab.json": json.dumps(numbers | {padding: encoder.pad_token}, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in tokenizer.merges),
        "tokenizer_config.json": json.dumps(settings | words, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(words, indent=2) + "\n",
    }
