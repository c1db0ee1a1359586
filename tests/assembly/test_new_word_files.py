"""Files of new words' vectors, of ours and of others: a text encoder that reads them computes what theirs does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_train.assembly.new_word_files import add_embeddings, write_words
from ldm_train.commands.export.encoder_configs import build_tokenizer_files, export_text_encoder
from ldm_train.commands.export.export_folder import write_tensors
from ldm_train.commands.export.exported_parts import map_text_to_transformers
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.text_encoder import TextEncoder, small
from ldm_train.weights.embedding_files import EMBEDDINGS_FILE

WIDTH = 32
CAPTIONS = ["a <toy> here", "<toy>, and", "a wooden toy", "un<toy>ed", "<toy><toy> <toy>", ""]


def encoder(*new_words: str) -> TextEncoder:
    """With the same weights each time; new words' vectors are random."""
    torch.manual_seed(0)
    text = small(width=WIDTH, layers=2, heads=4, context_length=16, new_words=new_words).eval()
    for name, parameter in text.named_parameters():
        if name.endswith("learned"):
            torch.nn.init.normal_(parameter, std=0.1)
    return text


def states(text: TextEncoder, captions: list[str]) -> Tensor:
    with torch.no_grad():
        return text.embed(text.tokenize(captions))


@pytest.fixture
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    """diffusers' own, with the text encoder that `encoder` makes and no other part."""
    folder, plain = tmp_path_factory.mktemp("pipeline"), encoder()
    left = export_text_encoder(plain)
    (folder / "config.json").write_text(json.dumps(left.config))
    write_tensors(folder / "model.safetensors", map_text_to_transformers(left), dtype=torch.float32)
    for name, text in build_tokenizer_files(plain).items():
        (folder / name).write_text(text)
    return StableDiffusionPipeline(
        vae=None,
        unet=None,
        text_encoder=CLIPTextModel.from_pretrained(folder),
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def theirs(pipeline: StableDiffusionPipeline, captions: list[str]) -> Tensor:
    with torch.no_grad():
        return pipeline.encode_prompt(captions, torch.device("cpu"), 1, False)[0]


@pytest.mark.parametrize("begins", ["toy", "wooden toy"])
def test_diffusers_computes_with_our_file_what_is_computed_here(
    begins: str, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    text = encoder(f"<toy>={begins}")
    write_words(tmp_path, text)
    before = theirs(pipeline, CAPTIONS[:1])
    pipeline.load_textual_inversion(str(tmp_path))
    assert not torch.allclose(theirs(pipeline, CAPTIONS[:1]), before, atol=0.01)
    assert_close(theirs(pipeline, CAPTIONS), states(text, CAPTIONS), rtol=1e-5, atol=1e-5)


def test_of_several_words_each_has_a_file_that_diffusers_reads(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    text, fresh = encoder("<toy>=wooden toy", "a/b=red"), encoder()
    write_words(tmp_path, text)
    files = sorted((tmp_path / "learned_embeds").iterdir())
    assert [file.name for file in files] == ["<toy>.safetensors", "a%2Fb.safetensors"]
    for file in files:
        pipeline.load_textual_inversion(str(file))
    captions = ["a <toy> and a/b", "a/b"]
    assert_close(theirs(pipeline, captions), states(text, captions), rtol=1e-5, atol=1e-5)
    add_embeddings(str(tmp_path), fresh)
    assert_close(states(fresh, captions), states(text, captions), rtol=1e-6, atol=1e-6)


LAYOUTS: dict[str, Callable[[Tensor], object]] = {
    "<toy>.safetensors": lambda rows: {"emb_params": rows},
    "diffusers.safetensors": lambda rows: {"<toy>": rows},
    "diffusers.bin": lambda rows: {"<toy>": rows},
    "parameter.bin": lambda rows: {"<toy>": torch.nn.Parameter(rows)},
    "web interface.pt": lambda rows: {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows.requires_grad_()},
        "name": "<toy>",
        "step": 500,
        "sd_checkpoint": "ad2a33c361",
        "sd_checkpoint_name": None,
    },
    "<toy>.pt": lambda rows: {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": rows}},
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_files_of_others_give_the_word(
    name: str, several: bool, pipeline: StableDiffusionPipeline, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    rows = torch.randn(3, WIDTH) if several else torch.randn(WIDTH)
    save = save_file if name.endswith(".safetensors") else torch.save
    save(LAYOUTS[name](rows.clone()), tmp_path / name)
    text = encoder()
    add_embeddings([str(tmp_path / name)], text)
    assert f"prompts may have <toy> ({3 if several else 1} tokens)" in capsys.readouterr().out
    pipeline.load_textual_inversion({"<toy>": rows})
    assert_close(states(text, CAPTIONS), theirs(pipeline, CAPTIONS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"<toy>": torch.zeros(1, 768)}, r"\(1, 768\)"),
        ({"<toy>": torch.zeros(15, WIDTH)}, "15 vectors.* 14"),
        ({"<toy>": torch.full((2, WIDTH), float("nan"))}, "NaN"),
        ({"<known>": torch.zeros(1, WIDTH)}, "<known>"),
        ({"a toy": torch.zeros(1, WIDTH)}, "must be one word"),
        ({"<toy>": torch.zeros(0, WIDTH)}, "has no vector"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"^embeddings=.*x\.safetensors: .*{message}"):
        add_embeddings(str(tmp_path / "x.safetensors"), encoder("<known>=toy"))


def test_classes_know_no_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ClassLabels, which takes no new words"):
        add_embeddings(str(tmp_path), ClassLabels(classes=["a"], width=8))


def test_a_file_of_one_word_is_what_others_expect(tmp_path: Path) -> None:
    write_words(tmp_path, encoder("<toy>=wooden toy"))
    assert {name: tuple(rows.shape) for name, rows in load_file(tmp_path / EMBEDDINGS_FILE).items()} == {"<toy>": (2, WIDTH)}
    assert [path.name for path in tmp_path.iterdir()] == [EMBEDDINGS_FILE]
