"""A run that learned a word leaves as the model without it and a file of its vectors, which diffusers puts together."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stored_weights import load_weights
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.weights.embedding_files import EMBEDDINGS_FILE
from tests.commands.export.shaped import PROMPT, SHAPE, opened

NEW_WORDS = 'text_encoder.new_words=["backgroun=round thing"]'


@pytest.fixture(scope="module")
def inverted(run_1: Path, latents: Callable, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inverted") / "run"
    words = (f"network.weights={run_1}", "trained=[*.token_embedding.learned]", "scale_check=false", "optimizer.lr=0.5")
    answer = train(latents(0.0, NEW_WORDS), path, *SHAPE, "network.heads=4", *words)
    assert answer.code == 0, answer.err
    return path


def test_the_word_leaves_beside_the_pipeline(inverted: Path, export: Callable) -> None:
    out = export(inverted, "layout=diffusers")
    assert f"the vectors of backgroun are in {EMBEDDINGS_FILE}" in (out / "README.md").read_text()
    pipeline, parts = opened(out), build_parts(read_trained(inverted))
    load_weights(inverted, parts)
    plain = embedded(pipeline)
    pipeline.load_textual_inversion(str(out))
    assert not torch.allclose(embedded(pipeline), plain, atol=0.1)
    with torch.no_grad():
        ours = parts.text_encoder.embed(parts.text_encoder.tokenize([PROMPT]))
    assert_close(embedded(pipeline), ours, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def embedded(pipeline: StableDiffusionPipeline) -> Tensor:
    return pipeline.encode_prompt(PROMPT, torch.device("cpu"), 1, False)[0]


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_and_beside_a_single_file(weights: str, inverted: Path, run_1: Path, export: Callable) -> None:
    out = export(inverted, "layout=single_file", f"weights={weights}")
    base = export(run_1, "layout=single_file", out="base") / "base.safetensors"
    assert_close(load_file(out / "out.safetensors"), load_file(base), rtol=0, atol=0)
    assert torch.equal(
        load_file(out / EMBEDDINGS_FILE)["backgroun"], load_file(inverted / EMBEDDINGS_FILE)["backgroun"]
    ) == (weights == "ema")
