"""A text encoder and its tokenizer in transformers' words: the same numbers."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_train.commands.export.encoder_configs import build_tokenizer_files, export_text_encoder
from ldm_train.commands.export.export_folder import write_tensors
from ldm_train.commands.export.exported_parts import map_text_to_transformers
from ldm_train.conditioners.text_encoder import TextEncoder, small

CAPTIONS = [
    *("a black circle on a red background", "", "Hello!! World! it's 1999, naïve café 東京 🍎", "  many   spaces\n"),
    *("x" * 300, "don't & <b>", "a_b-c.d e/f", "the the " * 60, "ÀÉ I'LL 12345", "!"),
]


@pytest.mark.parametrize("pad", [0, 49407])
def test_the_tokenizer_gives_the_same_numbers(pad: int, tmp_path: Path) -> None:
    encoder = small(width=16, layers=1, heads=2, context_length=16)
    encoder.pad_token = pad
    for name, text in build_tokenizer_files(encoder).items():
        (tmp_path / name).write_text(text)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    found = tokenizer(CAPTIONS, padding="max_length", max_length=16, truncation=True).input_ids
    assert found == encoder.tokenize(CAPTIONS).tolist()


@pytest.mark.parametrize("text", ["a ship\u2019s bell", "\u201ca cat\u201d", "\ufb01ne", "\uff21 cat", "salt &amp; pepper"])
def test_what_a_card_says_to_write_plainly_has_other_numbers(text: str, tmp_path: Path) -> None:
    encoder = small(width=16, layers=1, heads=2, context_length=16)
    for name, content in build_tokenizer_files(encoder).items():
        (tmp_path / name).write_text(content)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    found = tokenizer([text], padding="max_length", max_length=16, truncation=True).input_ids
    assert found != encoder.tokenize([text]).tolist()


def test_of_a_penultimate_layer_the_last_one_stays_here(tmp_path: Path) -> None:
    made = small(width=32, layers=3, heads=2, context_length=16)
    encoder = TextEncoder(made.tower, context_length=16, pad_token=0, trained=False, pooled=False, layer="penultimate")
    left = export_text_encoder(encoder)
    assert left.config["num_hidden_layers"] == 2
    assert {name.split(".")[2] for name in left.unused} == {"2"}
    (tmp_path / "config.json").write_text(json.dumps(left.config))
    write_tensors(tmp_path / "model.safetensors", map_text_to_transformers(left), dtype=torch.float32)
    tokens = encoder.tokenize(["a black circle"])
    with torch.no_grad():
        theirs = CLIPTextModel.from_pretrained(tmp_path)(tokens).last_hidden_state
        assert_close(encoder.embed(tokens), theirs, rtol=1e-4, atol=1e-5)
