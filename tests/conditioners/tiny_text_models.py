"""Tiny text encoders of `transformers` with random weights and their tokenizers, in transformers' layout."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "the", "red", "blue", "small", "apple", "fox", "cat", "dog", "tree", "under", "and", "two"]
LAYERS = 3


def write_tokenizer(folder: Path, special: list[str], template: str, *, unused: int = 0, **names: str) -> int:
    """Write a tokenizer of whole words, and return the size of its vocabulary.

    Args:
        special: the special tokens, in the order of their ids.
        template: what stands around a caption, `$A </s>`.
        unused: tokens that no caption has, before all others, so that two tokenizers give other ids.
    """
    vocabulary = [*special, *(f"<unused{number}>" for number in range(unused)), *WORDS]
    ids = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=names["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [(one, ids[one]) for one in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return len(vocabulary)


def write_t5(folder: Path, *, width: int = 16, seed: int = 0) -> Path:
    """Write a T5 with its tokenizer: <pad> is 0, </s> ends a caption."""
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    size = write_tokenizer(folder, ["<pad>", "</s>", "<unk>"], "$A </s>", **names)
    config = transformers.T5Config(
        vocab_size=size, d_model=width, d_kv=8, d_ff=2 * width, num_layers=LAYERS, num_heads=2, dropout_rate=0.5
    )
    return _write(transformers.T5EncoderModel, config, folder, seed)


def write_bert(folder: Path, *, width: int = 24, seed: int = 1) -> Path:
    """Write a BERT with its tokenizer and a pooler, for at most 32 tokens."""
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    size = write_tokenizer(folder, ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[CLS] $A [SEP]", unused=5, **names)
    config = transformers.BertConfig(
        vocab_size=size,
        hidden_size=width,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=32,
    )
    return _write(transformers.BertModel, config, folder, seed)


def write_clip(folder: Path, *, width: int = 16, projected: bool = False, seed: int = 2) -> Path:
    """Write a text encoder of CLIP with its tokenizer, for at most 16 tokens; with `projected`, as SDXL's second one."""
    names = {"pad_token": "<end>", "bos_token": "<start>", "eos_token": "<end>", "unk_token": "<end>"}
    size = write_tokenizer(folder, ["<start>", "<end>"], "<start> $A <end>", unused=3, **names)
    config = transformers.CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return _write(kind, config, folder, seed)


def _write(kind: type[transformers.PreTrainedModel], config: transformers.PretrainedConfig, folder: Path, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder
