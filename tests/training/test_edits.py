"""A published network for edits is trained further with its condition, and leaves as the pipeline that it came from."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image, ImageOps

from tests.assembly.tiny_pipelines import (
    PROMPT,
    draw_with_diffusers,
    expect_same,
    make_pipeline,
    read_drawn,
    tiny_text_models,
    words_of_inputs,
    write_inputs,
)
from tests.commands.export.shaped import SHAPE

NETWORK = [*SHAPE, "network.channels=[64,128]", "network.heads=8", "max_steps=2", "optimizer.lr=1e-3", "scale_check=false"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pipeline's folder in the layout of InstructPix2Pix."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "models").mkdir()
    with tiny_text_models(folder / "models"):
        make_pipeline("reference", folder, second=False)
        yield folder / "pipeline"


@pytest.fixture(scope="module")
def edits(pictures: Path, published: Path, ldm_train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of pictures and of those that they were made of, by that pipeline's encoders."""
    folder = tmp_path_factory.mktemp("edits")
    shutil.copytree(pictures, folder / "source")
    (folder / "source/before").mkdir()
    for path in pictures.glob("*.png"):
        ImageOps.invert(Image.open(path).convert("RGB")).save(folder / "source/before" / path.name)
    words = ["image_size=16", "autoencoder=pretrained", "text_encoder=clip_vit_l_14", "text_encoder.model=tiny-1"]
    words += [f"{part}.weights={published}" for part in ("autoencoder", "text_encoder")]
    maps = ["source.maps={reference:before/{name}}", "conditions=[reference]", "scale_check=false", "dtype=float32"]
    answer = ldm_train("encode", f"source.path={folder / 'source'}", f"cache={folder / 'cache'}", *words, *maps)
    assert answer.code == 0, answer.err
    return folder / "cache"


def test_published_edits_go_on_and_leave_again(
    published: Path, edits: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    words = [*NETWORK, f"network.weights={published}"]
    run = tmp_path / "run"
    answer = train(edits, run, "conditions=[reference]", *words)
    assert answer.code == 0, answer.err
    assert "warning: weights of as many input channels" not in answer.out
    out, inputs = tmp_path / "exported", write_inputs(tmp_path)
    answer = ldm_train("export", f"run_dir={run}", f"out={out}", "layout=diffusers")
    assert answer.code == 0, answer.err
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    expected = draw_with_diffusers(pipeline, "reference", inputs, scale=3)
    drawing = [f"prompts=['{PROMPT}']", "steps=4", "device=cpu", "guidance.scale=3", *words_of_inputs("reference", inputs)]
    for folder in (run, out):  # the run, and the pipeline that was made of it
        answer = ldm_train("sample", f"run_dir={folder}", f"out={tmp_path / 'drawn'}", *drawing)
        assert answer.code == 0, answer.err
        expect_same(expected, read_drawn(tmp_path / "drawn/0000.png"))


def test_without_the_condition_or_with_another_they_say_so(
    published: Path, edits: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    words = [*NETWORK, f"network.weights={published}"]
    other = "conditions=[{map:{name:reference,channels:3,encoded:true}}]"
    answer = train(edits, tmp_path / "other", other, *words)
    assert answer.code == 0, answer.err
    assert "set conditions=[reference]" in answer.out
    answer = train(edits, tmp_path / "none", *words)
    assert answer.code == 1
    assert "maps.reference" in answer.err
