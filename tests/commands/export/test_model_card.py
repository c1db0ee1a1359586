"""The model card: what catalogues read of it, what it tells, and its commands, run as they stand."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from ldm_train.commands.export import usage
from ldm_train.commands.export.model_card import Card, build_front_matter
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings

CARD = Card("model", "A model.", usage.TAGS, {"step": 3, "weights": "ema"}, "", [])


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.S)


def fields(trained: TrainSettings, card: Card = CARD, licence: str | None = None) -> dict[str, object]:
    lines = build_front_matter(card, trained, SimpleNamespace(licence=licence))
    assert (lines[0], lines[-2]) == ("---", "---")
    return OmegaConf.to_container(OmegaConf.create(lines[1]))  # type: ignore[return-value]


def test_a_card_tells_of_the_run_and_nothing_of_the_machine(run_dir: Path, export: Callable) -> None:
    card = (export(run_dir, "layout=diffusers", "licence=apache-2.0") / "README.md").read_text()
    for word in ("| steps | 3 |", "| these weights | apache-2.0 |", "captions | not stated", "shift of 0.25"):
        assert word in card
    assert str(Path.home()) not in card
    assert str(run_dir.parent) not in card


@pytest.mark.parametrize("words", [("layout=diffusers",), ("layout=lora",), ("layout=lora", "lora_format=kohya")], ids=str)
def test_a_cards_code_draws_a_picture(
    words: Sequence[str], run_1: Path, adapter: Path, export: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = export(run_1 if "layout=diffusers" in words else adapter, *words)
    export(run_1, "layout=diffusers", out=run_1.name)  # what an adapter stands on, under the name that its card has
    (code,) = blocks((out / "README.md").read_text(), "python")
    exec(code, {})
    assert (tmp_path / "picture.png").is_file()


def test_a_cards_commands_run(
    run_1: Path, pictures: Path, ldm_train: Callable, export: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    card = (export(run_1, "layout=diffusers") / "README.md").read_text()
    (tmp_path / "PICTURES").symlink_to(pictures)
    (command,) = blocks(card, "bash")
    answer = ldm_train(*shlex.split(command)[1:], "samples=4", "steps=1", "resamples=0", "device=cpu")
    assert answer.code == 0, answer.err
    assert "network.weights=RUN" in card


@pytest.mark.parametrize(
    ("base", "licence", "expected"),
    [
        (None, None, {"license": "unknown"}),
        ("owner/name", "openrail", {"license": "openrail", "base_model": "owner/name"}),
        ("runs/one/model.safetensors", "CC BY-SA 4.0", {"license": "other", "license_name": "cc-by-sa-4.0"}),
        (".", None, {"license": "unknown"}),
    ],
)
def test_catalogues_read_names_that_they_know(
    base: str | None, licence: str | None, expected: dict[str, str], trained: Path
) -> None:
    config = read_trained(trained)
    config = config.with_values(network=replace(config.network, kept=config.network.kept | {"weights": base}))
    always = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": list(usage.TAGS)}
    assert fields(config, licence=licence) == always | expected


def test_parts_are_no_whole_pipeline_for_catalogues(trained: Path) -> None:
    tags = [tag for tag in usage.TAGS if tag != "text-to-image"]
    assert "pipeline_tag" not in fields(read_trained(trained), replace(CARD, tags=tags))


def test_training_goes_on_by_options_and_what_differs_from_them(trained: Path) -> None:
    config = read_trained(trained)
    more = {"model": "ViT-H-14", "pad_token": 7, "chunks": 1, "layer": "penultimate", "trained": False, "pooled": False}
    encoder = Part("ldm_train.conditioners.text_encoder.clip", {"weights": "/there/text", **more})
    text = usage.describe_further_training("out", config.with_values(text_encoder=encoder), scale=0.5)
    assert "text_encoder=clip_vit_h_14 text_encoder.weights=out text_encoder.pad_token=7" in text
    assert "autoencoder.weights=out autoencoder.scale=0.5" in text
    assert "network.weights=out" in text
    assert "'network.channels=[16,32]'" in text
    assert "/there" not in text
