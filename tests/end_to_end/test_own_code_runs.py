"""The examples of docs/extending.md run as they stand there, from a folder of their own: trained, continued, drawn from."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm_train.run_dir.record import read_record
from ldm_train.settings import signatures
from ldm_train.training.checkpoints.checkpoint_files import last_checkpoint

PAGE = Path(__file__).parents[2] / "docs/extending.md"
EXAMPLES = dict(re.findall(r"```python title=\"(.*?)\"\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
SMALL = [
    *("trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "threads=1", "batch_size=4", "max_steps=2"),
    *("checkpoint.every=2", "pictures.every=2", "pictures.steps=2", "pictures.count=2", "validation.every=2"),
    *("validation.repeats=1", "metrics.every=2", "metrics.count=4", "metrics.steps=2", "held_out=0.5"),
]
SCANS = [
    *("source._target_=mysource.Scans", "source.path=scans", "source.window=[0,3000]", "crop._target_=mycrop.TopCrop"),
    *("autoencoder._target_=myautoencoder.Folded", "image_size=16"),
    *("text_encoder._target_=mycondition.Measurements", "text_encoder.count=2"),
]
TRAINING = [
    *("network._target_=mynet.TinyNetwork", "network.width=8", "optimizer._target_=myoptimizer.SignDescent"),
    *("lr_schedule._target_=myschedule.Halving", "lr_schedule.every=2", "ema._target_=myaverage.mean"),
    *("schedule._target_=mynoise.Circle", "prediction._target_=myobjective.Score", "weighting.bias=1.0"),
    *("timesteps._target_=myobjective.Squared", "weighting._target_=myobjective.Sigmoid"),
    *("sampler._target_=mysampling.Churned", "spacing._target_=mysampling.Quadratic", "guidance._target_=myguidance.fading"),
    *("features._target_=myfeatures.MeanColours", "metrics=[mymetrics.Sharpness]", "logger._target_=mylogger.TextFile"),
    "callbacks=[{_target_:mycallbacks.WeightNorm,every:1}]",
]
DRAWING = """
import torch, pytorch_lightning as pl
class Drawing(pl.Callback):
    def setup(self, trainer, pl_module, stage):
        torch.rand(3)
    def on_train_start(self, trainer, pl_module):
        torch.manual_seed(5)
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.rand(3)
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.randn(7)
    def state_dict(self):
        return {"steps": 4}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with all examples."""
    for name, text in {**EXAMPLES, "mydrawing.py": DRAWING}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    modules = {name.removesuffix(".py") for name in EXAMPLES} | {"mydrawing"}
    forget(modules)
    yield tmp_path
    forget(modules)


def forget(modules: set[str]) -> None:
    for name in modules:
        sys.modules.pop(name, None)
    for function in (signatures.signature, signatures._parsed):
        function.cache_clear()


def test_every_example_is_short() -> None:
    lines = {name: len([line for line in text.splitlines() if line.strip()]) for name, text in EXAMPLES.items()}
    assert len(lines) > 12
    assert {name: count for name, count in lines.items() if count > 30} == {}


@pytest.mark.slow
def test_a_run_with_own_code_goes_its_whole_way(folder: Path, ldm_train: Callable) -> None:
    (folder / "scans").mkdir()
    drawn = np.random.default_rng(0)
    for number in range(8):
        scan = drawn.integers(0, 3000, (20, 16)).astype("uint16")
        np.save(folder / f"scans/{number} {number / 10} n{number}.npy", scan)
    steps = [
        ["encode", *SCANS, "cache=cache"],
        ["check", *SCANS, *TRAINING, *SMALL, "cache=cache"],
        ["train", "cache=cache", "run_dir=run", *TRAINING, *SMALL],
        ["train", "cache=cache", "run_dir=run", *TRAINING, *SMALL, "max_steps=4"],
        ["sample", "run_dir=run", 'prompts=["3 0.5"]', "out=drawn", "steps=2", "guidance.scale=3"],
        ["evaluate", "run_dir=run", "out=measured.json", "samples=4", "steps=2", "resamples=2", "device=cpu"],
        ["export", "run_dir=run", "out=weights.safetensors"],
    ]
    for words in steps:
        if words[0] != "encode":
            refused = ldm_train(*words)
            assert refused.code != 0, words
            assert "trust=[" in refused.err + refused.out
        answer = ldm_train(*words, "trust=.")
        assert answer.code == 0, (words, answer.err, answer.out)
    assert ldm_train("report", "run_dir=run", "out=page.html").code == 0
    layout = ldm_train("export", "run_dir=run", "out=pipeline", "layout=diffusers", "trust=.")
    assert layout.code == 1
    assert "mynet.TinyNetwork" in layout.err
    metrics = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert {"weight_norm", "metrics/taught_sharpness_drawn", "metrics/kid_mean_colours"} <= metrics[-1].keys()
    assert "weight_norm" in (folder / "run/metrics.txt").read_text()
    starts = read_record(folder / "run")["starts"]
    used = starts[-1]["own_code"]  # type: ignore[index]
    assert {"mynet", "mycallbacks", "myobjective", "mycondition"} <= used.keys()
    assert re.fullmatch(r"[0-9a-f]{64}", used["mynet"]["sources"]["mynet"])


@pytest.mark.slow
def test_an_own_condition_is_trained_and_drawn_with(
    folder: Path, pictures: Path, encode: Callable, train: Callable, ldm_train: Callable
) -> None:
    shutil.copytree(pictures, folder / "lit")
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    lit = [json.dumps({**row, "light": 30 * number}) for number, row in enumerate(rows)]
    (folder / "lit/metadata.jsonl").write_text("\n".join(lit))
    assert encode(folder / "lit", folder / "cache").code == 0
    own = ["conditions=[{_target_:myangle.Angle,column:light}]", "trust=."]
    assert "trust=" in train(folder / "cache", folder / "run", own[0]).err
    answer = train(folder / "cache", folder / "run", *own)
    assert answer.code == 0, answer.err
    drawn = []
    for name, words in (("none", []), ("left", ["number.angle=270"]), ("right", ["number.angle=90"])):
        words = ["run_dir=run", "prompts=[a black circle]", "steps=2", f"out={name}", "trust=.", *words]
        answer = ldm_train("sample", *words)
        assert answer.code == 0, answer.err
        drawn.append((folder / name / "0000.png").read_bytes())
    assert len({*drawn}) == 3


@pytest.mark.slow
def test_own_code_that_changed_is_named_when_its_run_is_continued(folder: Path, cache: Path, ldm_train: Callable) -> None:
    words = ["train", f"cache={cache}", "run_dir=run", "network._target_=mynet.TinyNetwork", *SMALL, "metrics.every=null"]
    assert "changed" not in ldm_train(*words, "trust=mynet").err
    (folder / "mynet.py").write_text((folder / "mynet.py").read_text() + "\n# another line\n")
    answer = ldm_train(*words, "max_steps=3", "trust=mynet")
    assert answer.code == 0, answer.err
    assert "mynet" in next(line for line in (answer.out + answer.err).splitlines() if "own code changed" in line)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks.*")
def test_a_callback_that_draws_leaves_the_weights_alone(folder: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    words = ["network.dropout=0.2", "max_steps=4", "callbacks=[]"]
    drawing = [*words[:2], "callbacks=[mydrawing.Drawing]", "trust=mydrawing"]
    weights = []
    for name, more in (("without", words), ("with", drawing)):
        answer = train(cache, tmp_path / name, *more)
        assert answer.code == 0, answer.err
        weights.append(torch.load(last_checkpoint(tmp_path / name), weights_only=True)["state_dict"])
    assert weights[0].keys() == weights[1].keys()
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    again = train(cache, tmp_path / "with", *words[:1], "max_steps=5")
    assert again.code == 0, again.err  # without it, which needs no trust
    assert "mydrawing" in again.out + again.err, again.out + again.err
    shutil.rmtree(tmp_path / "with")


@pytest.mark.slow
def test_a_stored_config_or_cache_grants_nothing(folder: Path, cache: Path, ldm_train: Callable) -> None:
    words = ["train", f"cache={cache}", "run_dir=run", "network._target_=mynet.TinyNetwork", *SMALL, "metrics.every=null"]
    assert ldm_train(*words, "trust=mynet").code == 0
    assert "trust" not in (folder / "run/config.yaml").read_text()
    with (folder / "run/config.yaml").open("a") as file:
        file.write("trust: mynet\n")
    refused = ldm_train("sample", "run_dir=run", "prompts=[x]", "out=drawn", "steps=2")
    assert refused.code == 1
    assert "trust" in refused.err
    assert not (folder / "drawn").exists()
