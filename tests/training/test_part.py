"""Runs that train a part of a network, by names or by adapters: what they keep, and that they are whole when opened."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.stored_weights import load_weights, read_weights
from ldm_train.run_dir.stored_settings import read_trained

LORA = ("adapter=lora", "adapter.rank=2", "adapter.dropout=0.1", "adapter.text_encoder=true")
CROSS = ('trained=["network.*.cross_attention.*","text_encoder.*.mlp.*"]',)
WAYS = pytest.mark.parametrize("words", [LORA, CROSS], ids=["adapters", "names"])


@pytest.fixture(scope="module")
def base(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to stand on."""
    folder = tmp_path_factory.mktemp("base") / "run"
    shutil.copytree(trained, folder)
    return folder


@pytest.fixture(scope="module")
def runs(base: Path, run_with: Callable[..., Path]) -> Callable[[tuple[str, ...]], Path]:
    return lambda words: run_with(f"network.weights={base}", *words)


def opened(run_dir: Path, weights: str = "ema") -> Parts:
    parts = build_parts(read_trained(run_dir))
    load_weights(run_dir, parts, weights=weights)
    return parts


def weights(parts: Parts) -> dict[str, Tensor]:
    found = {"network." + name: p.detach() for name, p in parts.network.named_parameters()}
    return found | {"text_encoder." + name: p.detach() for name, p in parts.text_encoder.named_parameters()}


@WAYS
@pytest.mark.parametrize("kind", ["raw", "ema"])
def test_a_checkpoint_holds_what_is_trained_alone(words: tuple[str, ...], kind: str, runs: Callable[..., Path]) -> None:
    state, step, _ = read_weights(runs(words), kind)
    assert step == 8
    mine = (".lora_A.", ".lora_B.") if words is LORA else (".cross_attention.", ".mlp.")
    assert all(any(part in name for part in mine) for name in state)
    assert {name.partition(".")[0] for name in state} == {"network", "text_encoder"}


@WAYS
def test_what_is_not_trained_stays_and_what_is_changes(
    words: tuple[str, ...], base: Path, runs: Callable[..., Path]
) -> None:
    before, after = weights(opened(base)), weights(opened(runs(words)))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    mine = ("_attention.to_", ".attn.in_proj_weight", ".attn.out_proj.weight")
    mine = mine if words is LORA else (".cross_attention.", ".mlp.")
    assert changed == {n for n in before if any(part in n for part in mine) and (words is CROSS or n.endswith("weight"))}


@WAYS
def test_a_continued_run_equals_one_that_was_not_interrupted(
    words: tuple[str, ...],
    base: Path,
    cache: Path,
    runs: Callable[..., Path],
    train: Callable,
    power_cut: Callable,
    tmp_path: Path,
) -> None:
    more = (f"network.weights={base}", *words)
    with power_cut(4):
        train(cache, tmp_path / "run", *more)
    moved = shutil.copytree(base, tmp_path / "moved")
    assert train(cache, tmp_path / "run", f"network.weights={moved}", *words).code == 0
    for kind in ("raw", "ema"):
        ours, theirs = read_weights(tmp_path / "run", kind)[0], read_weights(runs(words), kind)[0]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_opened_run_computes_what_it_computed_in_training(
    base: Path, cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.commands.train import command as task

    modules: list[nn.Module] = []
    made = task.training_module
    monkeypatch.setattr(task, "training_module", lambda *args: modules.append(made(*args)) or modules[-1])
    answer = train(cache, tmp_path / "run", f"network.weights={base}", *LORA, "optimizer.lr=0.1", "max_steps=3")
    assert answer.code == 0, answer.err
    parts, module = opened(tmp_path / "run", "raw"), modules[0].eval()
    tokens = parts.text_encoder.tokenize(["a black circle", "a square"])
    told, expected = parts.text_encoder.embed(tokens), module.text_encoder.embed(tokens)
    assert_close(told, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(told, opened(base).text_encoder.embed(tokens), rtol=1e-3)


def test_a_run_can_stand_on_one_with_adapters(
    base: Path, cache: Path, runs: Callable, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", f"network.weights={runs(LORA)}", *CROSS, "max_steps=1", "optimizer.lr=0")
    assert answer.code == 0, answer.err
    first, second = weights(opened(runs(LORA))), weights(opened(tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_that_changed_below_a_run_are_refused(
    base: Path, cache: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    own = shutil.copytree(base, tmp_path / "base")
    words = (f"network.weights={own}", *LORA, "max_steps=1")
    assert train(cache, tmp_path / "run", *words).code == 0
    assert train(cache, own, "max_steps=9").code == 0
    answer = train(cache, tmp_path / "run", *words[:-1], "max_steps=2")
    assert answer.code == 1
    assert f"the weights in network.weights={own}: then" in answer.err
    answer = ldm_train("sample", f"run_dir={tmp_path / 'run'}", "prompts=[x]", f"out={tmp_path / 'out'}")
    assert answer.code == 1
    assert "was trained on other weights than" in answer.err
    shutil.rmtree(own)
    answer = ldm_train("sample", f"run_dir={tmp_path / 'run'}", "prompts=[x]", f"out={tmp_path / 'out'}")
    assert answer.code == 1
    assert f"stands on network.weights={own}, which cannot be loaded" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("adapter=lora", "network.weights=null"), "network.weights=null that is a random one"),
        ((*CROSS, "network.weights=null"), "network.weights=null that is a random one"),
        ((*LORA, *CROSS), "two ways to train a part"),
        (("trained=[]",), "trained=[] must be a list"),
        (('trained=["network.*.cross_atention.*"]',), "near to 'cross_atention' are cross_attention"),
        (('trained=["*.weight","nothing"]',), "trained: 'nothing' matches none of"),
        (('trained=["weighting.*"]',), "trained: 'weighting.*' matches none of"),
        (("adapter.rank=4",), "adapter.rank"),
        ((*LORA, 'adapter.targets=["*.to_k"]'), "near to 'to_k' are"),
    ],
)
def test_what_cannot_be_trained_in_part_is_refused(
    words: tuple[str, ...], message: str, base: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", f"network.weights={base}", *words)
    assert answer.code != 0
    assert message in answer.err + answer.out
    assert not (tmp_path / "run").exists()


@WAYS
def test_export_can_merge_what_a_run_stands_on(
    words: tuple[str, ...], runs: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    run_dir, out = runs(words), tmp_path / "whole.safetensors"
    answer = ldm_train("export", f"run_dir={run_dir}", f"out={out}", "merge=true")
    assert answer.code == 0, answer.err
    parts = build_parts(read_trained(run_dir))
    load_weights(run_dir, parts, weights=str(out))
    ours, theirs = weights(parts), weights(opened(run_dir))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_export_has_nothing_to_merge_in_a_run_that_trained_all(base: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("export", f"run_dir={base}", f"out={tmp_path / 'x.safetensors'}", "merge=true")
    assert answer.code == 1
    assert "merge=true" in answer.err


def test_the_ways_are_recorded(base: Path, runs: Callable) -> None:
    assert len(json.loads((runs(LORA) / "run.json").read_text())["base"]) == 64
    assert json.loads((base / "run.json").read_text()).get("base") is None


@pytest.mark.parametrize(
    "words",
    [("adapter=lora", "adapter.text_encoder=true"), ('trained=["network.*.cross_attention.*"]',)],
    ids=["adapters", "names"],
)
def test_check_tells_the_memory_of_a_part(
    words: tuple[str, ...], base: Path, pictures: Path, train_words: list[str], ldm_train: Callable, tmp_path: Path
) -> None:
    def memory(*more: str) -> dict[str, int]:
        text = ["text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=4"]
        own = [f"source.path={pictures}", "autoencoder=identity", "image_size=16", *text, *train_words, f"out={tmp_path}"]
        answer = ldm_train("check", *own, *more)
        assert answer.code == 0, answer.out + answer.err
        return json.loads((tmp_path / "check.json").read_text())["training"]["memory"]

    whole, part = memory(), memory(f"network.weights={base}", *words)
    assert part["weights"] >= whole["weights"]
    assert part["gradients"] < whole["gradients"] / 20
    assert part["optimizer"] == pytest.approx(2 * part["ema"], rel=0.1)
