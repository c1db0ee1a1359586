"""Weights out of a run as a file: those of its checkpoint, and averages of lengths that nobody had kept."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from ldm_train.util.files import temporary_path
from ldm_train.weights.tensor_files import read_metadata

LONG = (
    "max_steps=150",
    "validation.every=1000",
    "pictures.every=1000",
    "pictures.prompts=[]",
    "checkpoint.every=1000",
    "trainer.log_every_n_steps=50",
)
POWER = ("ema=power", "ema.snapshot_every=3")  # of the tiny run: eight steps


@pytest.fixture(scope="module")
def long_run(run_with: Callable) -> Path:
    """A run that stored its averages of the default lengths ten times."""
    return run_with(*LONG, "ema=power", "ema.snapshot_every=15")


@pytest.fixture(scope="module")
def stored(run_with: Callable) -> Path:
    """The tiny run with the averages of steps 3, 6 and 8."""
    return run_with(*POWER)


@pytest.fixture
def export(ldm_train: Callable, tmp_path: Path) -> Callable[..., tuple[dict[str, Tensor], dict, str]]:
    """`export(run_dir, *words)`: the tensors written, what the file tells, and what was printed."""

    def run(run_dir: Path, *words: str) -> tuple[dict[str, Tensor], dict, str]:
        out = tmp_path / "weights.safetensors"
        answer = ldm_train("export", f"run_dir={run_dir}", f"out={out}", *words)
        assert answer.code == 0, answer.err
        return load_file(out), read_metadata(out), answer.out

    return run


def checkpoint(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([weights[name].flatten().double() for name in sorted(weights)])


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "ema").iterdir())


# Of the checkpoint


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_the_checkpoints_weights_are_written_bit_for_bit(weights: str, trained: Path, export: Callable) -> None:
    found, reported, _ = export(trained, f"weights={weights}")
    loaded = checkpoint(trained)
    expected = loaded["state_dict"] if weights == "raw" else loaded["callbacks"]["EMA"]["average"]
    assert_close(found, dict(expected), rtol=0, atol=0)
    assert (reported["step"], reported["weights"]) == (8, weights)


def test_a_channels_last_run_is_written_in_the_usual_order(run_with: Callable, export: Callable) -> None:
    run_dir = run_with("channels_last=true", *POWER)
    for words in ((), ("ema_length=0.1",)):
        found, _, _ = export(run_dir, *words)
        assert_close(found, checkpoint(run_dir)["callbacks"]["EMA"]["average"], rtol=1e-6, atol=1e-7)


# Afterwards


@pytest.mark.parametrize("length", [0.08, 0.15])
def test_an_average_made_afterwards_is_the_one_that_would_have_been_kept(
    length: float, long_run: Path, run_with: Callable, export: Callable
) -> None:
    """Within 1 % of it, and 2 % of what averaging changes of the raw weights, which is the stricter measure."""
    found, reported, printed = export(long_run, f"ema_length={length}")
    other = checkpoint(run_with(*LONG, "ema=power", f"ema.lengths=[{length}]", "ema.snapshot_every=1000"))
    assert_close(other["state_dict"], checkpoint(long_run)["state_dict"], rtol=0, atol=0)
    kept, made, raw = flat(other["callbacks"]["EMA"]["average"]), flat(found), flat(other["state_dict"])
    assert (made - kept).norm() < 1e-2 * kept.norm()
    assert (made - kept).norm() < 2e-2 * (kept - raw).norm()
    assert (reported["step"], reported["weights"], reported["ema_length"]) == (150, "post-hoc", length)
    assert reported["residual"] < 0.05
    assert "warning" not in printed
    assert sum(part["coefficient"] for part in reported["combined"]) == pytest.approx(1, abs=1e-9)
    assert {(part["step"], part["length"]) for part in reported["combined"]} == {
        (step, own) for step in range(15, 151, 15) for own in (0.10, 0.05)
    }


def test_a_stored_average_comes_back(stored: Path, export: Callable) -> None:
    average = checkpoint(stored)["callbacks"]["EMA"]
    assert_close(export(stored, "ema_length=0.1")[0], average["average"], rtol=1e-6, atol=1e-7)
    assert_close(export(stored, "ema_length=0.05")[0], average["others"]["length 0.05"], rtol=1e-6, atol=1e-7)


def test_an_earlier_step_is_made_of_what_was_stored_until_then(stored: Path, run_with: Callable, export: Callable) -> None:
    found, reported, _ = export(stored, "ema_length=0.1", "step=3")
    snapshot = load_file(stored / "ema/step-00000003.safetensors")
    assert_close(found, {name: snapshot[f"0.1/{name}"] for name in found}, rtol=1e-6, atol=1e-7)
    assert reported["step"] == 3
    assert {part["step"] for part in reported["combined"]} == {3}
    assert {part["step"] for part in export(stored, "ema_length=0.1", "step=5")[1]["combined"]} == {3, 6}


def test_a_length_that_the_snapshots_do_not_make_is_warned_of(stored: Path, export: Callable) -> None:
    _, reported, printed = export(stored, "ema_length=0.2")
    assert reported["residual"] > 0.05
    for value in ("ema_length=0.2", "step 8", f"{reported['residual']:.0%}"):
        assert value in printed


# Snapshots


def test_snapshots_are_written_every_so_often_and_at_the_end(stored: Path) -> None:
    assert names(stored) == [f"step-{step:08d}.safetensors" for step in (3, 6, 8)]
    assert read_metadata(stored / "ema/step-00000006.safetensors") == {
        "step": 6,
        "updates": 6,
        "start_step": 0,
        "lengths": [0.1, 0.05],
        "run_id": json.loads((stored / "run.json").read_text())["run_id"],
    }
    last, ema = load_file(stored / "ema/step-00000008.safetensors"), checkpoint(stored)["callbacks"]["EMA"]
    parts = {"0.1": ema["average"], "0.05": ema["others"]["length 0.05"]}
    assert_close(last, {f"{length}/{n}": t for length, part in parts.items() for n, t in part.items()}, rtol=0, atol=0)


def test_a_late_start_stores_nothing_before_it_and_counts_from_it(run_with: Callable, export: Callable) -> None:
    run_dir = run_with(*POWER, "ema.start_step=4", "ema.dtype=float16")
    assert names(run_dir) == ["step-00000006.safetensors", "step-00000008.safetensors"]
    reported = read_metadata(run_dir / "ema/step-00000006.safetensors")
    assert (reported["step"], reported["updates"], reported["start_step"]) == (6, 2, 4)
    assert {t.dtype for t in load_file(run_dir / "ema/step-00000006.safetensors").values()} == {torch.float16}
    found, _, _ = export(run_dir, "ema_length=0.1")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert_close(found, checkpoint(run_dir)["callbacks"]["EMA"]["average"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("at", [4, 7])
def test_a_resumed_run_writes_the_same_averages_and_snapshots(
    at: int, cache: Path, train: Callable, stored: Path, power_cut: Callable, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with power_cut(at):
        train(cache, run_dir, *POWER)
    temporary_path(run_dir / "ema/step-00000007.safetensors").write_bytes(b"half")
    shutil.copy(run_dir / "ema/step-00000003.safetensors", run_dir / "ema/step-00000099.safetensors")
    assert train(cache, run_dir, *POWER).code == 0
    assert names(run_dir) == names(stored)
    for name in names(stored):
        assert (run_dir / "ema" / name).read_bytes() == (stored / "ema" / name).read_bytes()
    found, expected = (checkpoint(path)["callbacks"]["EMA"] for path in (run_dir, stored))
    assert (found["updates"], found["profile"]) == (expected["updates"], expected["profile"]) == (8, "length 0.1")
    for part in ("average", "others"):
        assert_close(found[part], expected[part], rtol=0, atol=0)


def test_averaging_by_powers_leaves_the_weights_alone(stored: Path, trained: Path) -> None:
    assert_close(checkpoint(stored)["state_dict"], checkpoint(trained)["state_dict"], rtol=0, atol=0)


def test_a_start_without_a_checkpoint_drops_what_an_earlier_one_stored(cache: Path, train: Callable, tmp_path: Path) -> None:
    assert train(cache, tmp_path / "run", "max_steps=1").code == 0
    (tmp_path / "run/ema").mkdir(exist_ok=True)
    (tmp_path / "run/ema/step-00000003.safetensors").write_bytes(b"")
    assert train(cache, tmp_path / "run", "max_steps=1", "resume=restart").code == 0
    assert names(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ema=decay",), "ema.lengths: then [0.1, 0.05], now null"),
        (("ema=power", "ema.lengths=[0.1,0.07]"), "ema.lengths: then [0.1, 0.05], now [0.1, 0.07]"),
        (("ema=power", "ema.start_step=2"), "ema.start_step: then 0, now 2"),
    ],
)
def test_another_average_is_refused_on_resume_and_nothing_is_touched(
    words: tuple[str, ...], message: str, cache: Path, train: Callable, stored: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(stored, tmp_path / "run"))
    answer = train(cache, run_dir, "max_steps=10", *words)
    assert answer.code == 1
    assert message in answer.err
    assert (run_dir / "config.yaml").read_text() == (stored / "config.yaml").read_text()


def test_snapshots_of_float64_are_exported_in_float64(run_with: Callable, export: Callable) -> None:
    run_dir = run_with(*POWER, "ema.dtype=float64")
    found, _, _ = export(run_dir, "ema_length=0.1")
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    average = checkpoint(run_dir)["callbacks"]["EMA"]["average"]
    assert_close(found, {name: tensor.double() for name, tensor in average.items()}, rtol=1e-6, atol=1e-7)


# The file as weights


@pytest.mark.slow
def test_an_exported_file_draws_and_measures_as_what_it_was_made_of(
    trained: Path, ldm_train: Callable, export: Callable, tmp_path: Path
) -> None:
    export(trained, "weights=raw")
    reported = {}
    for weights in ("raw", str(tmp_path / "weights.safetensors")):
        words = [f"run_dir={trained}", "steps=2", "device=cpu", f"weights={weights}"]
        answer = ldm_train("evaluate", *words, f"out={tmp_path}/o.json")
        assert answer.code == 0, answer.err
        reported[weights] = json.loads((tmp_path / "o.json").read_text())
        assert reported[weights].pop("weights") == weights
        answer = ldm_train("sample", *words, "prompts=[a]", f"out={tmp_path}/{len(reported)}")
        assert answer.code == 0, answer.err
        assert "of step 8" in answer.out
    assert len({json.dumps(numbers) for numbers in reported.values()}) == 1
    one, other = (Image.open(tmp_path / name / "0000.png") for name in ("1", "2"))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("fault", ["lost", "left over", "shape"])
def test_a_file_of_another_network_is_refused_by_name(
    fault: str, trained: Path, ldm_train: Callable, export: Callable, tmp_path: Path
) -> None:
    weights, reported, _ = export(trained)
    name = "network.conv_in.weight"
    if fault == "left over":
        weights["network.more"] = torch.zeros(1)
    else:
        tensor = weights.pop(name)
        weights |= {} if fault == "lost" else {name: tensor[:1].clone()}
    path = tmp_path / "other.safetensors"
    save_file(weights, path, metadata={"ldm_train": json.dumps(reported)})
    answer = ldm_train("sample", f"run_dir={trained}", "prompts=[a]", f"out={tmp_path}/o", f"weights={path}")
    assert answer.code == 1
    assert f"{path} was trained with another network" in answer.err
    assert ("more" if fault == "left over" else "conv_in.weight") in answer.err


# What cannot be


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ema_length=0.3",), "ema_length=0.3 must be above 0 and at most 0.2886"),
        (("ema_length=0",), "ema_length=0 must be above 0"),
        (("ema_length=long",), "ema_length=long "),
        (("ema_length=0.1", "step=9"), "step=9 must be a step of the averages in {run}/ema: from 1 to 8"),
        (("ema_length=0.1", "step=0"), "step=0 must be a step of the averages"),
        (("step=3",), "step=3 needs ema_length"),
        (("ema_length=0.1", "weights=raw"), "weights=raw and ema_length=0.1 contradict each other"),
        (("weights=best",), "weights=best cannot be exported"),
        (("weights=other.safetensors",), "weights=other.safetensors cannot be exported"),
        (("out={tmp}/weights.pt",), "weights.pt must end in .safetensors"),
    ],
)
def test_a_bad_export_is_refused(
    words: tuple[str, ...], message: str, stored: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    words = tuple(word.format(tmp=tmp_path) for word in words)
    answer = ldm_train("export", f"run_dir={stored}", f"out={tmp_path}/w.safetensors", *words)
    assert answer.code in (1, 2)
    assert message.format(run=stored) in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_snapshots_says_how_to_get_some(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("export", f"run_dir={trained}", f"out={tmp_path}/w.safetensors", "ema_length=0.1")
    assert answer.code == 1
    assert "holds no snapshots" in answer.err
    assert "train with ema=power (and ema.snapshot_every" in answer.err


def test_a_damaged_snapshot_is_named(stored: Path, ldm_train: Callable, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(stored, tmp_path / "run"))
    path = run_dir / "ema/step-00000006.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    answer = ldm_train("export", f"run_dir={run_dir}", f"out={tmp_path}/w.safetensors", "ema_length=0.08")
    assert answer.code == 1
    assert f"{path} cannot be read" in answer.err


@pytest.mark.parametrize(
    ("file", "message"), [("none", "is not there; `ldm-train export"), ("foreign", "was not written by `ldm-train export`")]
)
def test_a_file_that_is_no_export_is_refused(
    file: str, message: str, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    words = [f"run_dir={trained}", f"out={tmp_path}/o.json", f"weights={tmp_path}/{file}.safetensors"]
    answer = ldm_train("evaluate", *words)
    assert answer.code == 1
    assert message in answer.err
