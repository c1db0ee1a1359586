"""The commands as functions: own objects, what a run records of them, and errors that are raised."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ldm_train as package
from ldm_train.run_dir.record import read_record
from ldm_train.settings.trust import Grants, current_grants
from ldm_train.types import Conditioning
from ldm_train.util.processes import describe_call

SMALL: Mapping[str, object] = {
    "max_steps": 2,
    "batch_size": 4,
    "threads": 1,
    "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
    "checkpoint": {"every": 2},
    "pictures": {"every": 2, "count": 2, "steps": 2},
    "metrics": {"every": None},
    "validation": {"every": 2, "repeats": 1},
}
MODULE = """
from torch import nn
class Net(nn.Module):
    def __init__(self, in_channels, context_width, vector_width, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.Conv2d(width, in_channels, 1))
    def forward(self, x_t, t, conditioning):
        return self.layers(x_t)
"""


class Typed(nn.Module):
    """As a class that was typed into a notebook, which no module holds."""

    def __init__(self, in_channels: int, context_width: int | None, vector_width: int | None, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.Conv2d(width, in_channels, 1))

    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        made: Tensor = self.layers(x_t)
        return made


Typed.__module__ = "__main__"
BYTES = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[nn.Module]:
    """A network of a module that can be imported, in the current folder."""
    (tmp_path / "own_net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        import own_net  # type: ignore[import-not-found]
    return own_net.Net


def own_code(run_dir: Path, start: int = -1) -> dict[str, dict[str, object]]:
    starts = read_record(run_dir)["starts"]
    found: dict[str, dict[str, object]] = starts[start]["own_code"]  # type: ignore[index]
    return found


@pytest.mark.slow
def test_a_class_of_a_module_trains_as_on_the_command_line(
    cache: Path, tmp_path: Path, module: type[nn.Module], ldm_train: Callable
) -> None:
    run = package.train(SMALL, cache=cache, run_dir="from_program", network=partial(module, width=8))
    assert (run.step, type(run.parts.network)) == (2, module)
    words = [
        *(f"cache={cache}", "run_dir=from_words", "network._target_=own_net.Net", "network.width=8", "trust=own_net"),
        *("max_steps=2", "batch_size=4", "threads=1", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
        *("checkpoint.every=2", "pictures.every=2", "pictures.count=2", "pictures.steps=2", "metrics.every=null"),
        *("validation.every=2", "validation.repeats=1"),
    ]
    answer = ldm_train("train", *words)
    assert answer.code == 0, answer.err
    configs = [Path(name, "config.yaml").read_text().replace(name, "RUN") for name in ("from_program", "from_words")]
    assert configs[0] == configs[1]
    assert (tmp_path / "from_program/metrics.jsonl").read_text() == (tmp_path / "from_words/metrics.jsonl").read_text()
    assert own_code(tmp_path / "from_program") == own_code(tmp_path / "from_words")
    assert [*own_code(tmp_path / "from_program")["own_net"]["sources"]] == ["own_net"]  # type: ignore[misc]
    starts = read_record(tmp_path / "from_program")["starts"]
    assert starts[0]["command"].startswith("ldm_train.run_command('train', {")  # type: ignore[index]
    with pytest.raises(ValueError, match="trust=own_net"):
        package.load_run("from_program")
    for opened in (package.load_run("from_program", trust="own_net"), package.load_run("from_program", network=module)):
        assert torch.equal(package.generate(opened, "a circle"), package.generate(run, ["a circle"]))
    drawn = ldm_train("sample", "run_dir=from_program", "prompts=[a circle]", "out=drawn", "trust=own_net")
    assert drawn.code == 0, drawn.err


@pytest.mark.slow
@pytest.mark.parametrize("instance", [False, True], ids=["class", "instance"])
def test_what_no_file_can_hold_is_passed_again(
    instance: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ldm_train: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    network = Typed(3, None, None, width=6) if instance else partial(Typed, width=6)
    before = [parameter.clone() for parameter in network.parameters()] if isinstance(network, Typed) else []
    run = package.train(SMALL, cache=cache, run_dir="run", network=network)
    if isinstance(network, Typed):
        assert all(map(torch.equal, network.parameters(), before)), "a copy is trained"
    assert "_target_: from_python.__main__.Typed" in Path("run/config.yaml").read_text()
    [(name, digest)] = own_code(tmp_path / "run")["__main__"]["sources"].items()  # type: ignore[attr-defined]
    assert name == "__main__.Typed"
    assert digest is None or re.fullmatch("[0-9a-f]{64}", digest)
    refused = ldm_train("sample", "run_dir=run", "prompts=[a circle]", "out=drawn")
    assert refused.code == 1
    assert "from_python.__main__.Typed" in refused.err
    assert "network=" in refused.err
    again = package.train(SMALL, cache=cache, run_dir="run", network=network, max_steps=3)
    assert (run.step, again.step) == (2, 3)
    loaded = package.load_run("run", network=Typed(3, None, None, width=6), steps=2, guidance={"scale": 3})
    images = package.generate(loaded, ["a circle", "a square"], seed=3, batch_size=1)
    assert torch.equal(images, package.generate(again, ["a circle", "a square"], seed=3, steps=2, guidance_scale=3.0))
    assert images.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="another network"):
        package.load_run("run", network=Typed(3, None, None, width=5))


@pytest.mark.slow
def test_two_instances_of_other_weights_are_two_runs(cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    names = []
    for number in range(2):
        run_dir = tmp_path / str(number)
        package.train(SMALL, cache=cache, run_dir=run_dir, network=Typed(3, None, None))
        names.append(read_record(run_dir)["run_id"])
    assert names[0] != names[1]


@pytest.mark.slow
def test_own_callbacks_and_metrics_are_objects_too(cache: Path, tmp_path: Path) -> None:
    from pytorch_lightning import Callback

    from ldm_train.metrics.evaluation import Comparison

    class Counting(Callback):
        steps = 0

        def on_train_batch_end(self, *arguments: object) -> None:
            self.steps += 1

    def redness(comparison: Comparison) -> dict[str, Tensor]:
        return {"redness": comparison.drawn[:, 0].mean((1, 2))}

    counting = Counting()
    small = {**SMALL, "metrics": {"every": 2, "count": 4, "steps": 1, "own": [lambda: redness]}, "features": None}
    run = package.train(small, cache=cache, run_dir=tmp_path / "run", network=Typed, callbacks=[counting])
    assert counting.steps == 2
    assert run.step == 2
    assert "redness" in (tmp_path / "run/metrics.jsonl").read_text()
    assert package.load_run(tmp_path / "run", network=Typed).step == 2  # needs neither again


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: package.compose("trian"), "ConfigError", "train"),
        (lambda: package.train(cache="none", run_dir="r", max_stepss=3), "ConfigError", "max_stepss.*max_steps"),
        (lambda: package.train(cache="none", run_dir="r", network="unet"), "ConfigError", "unet.*unet_small"),
        (lambda: package.train(cache="none", run_dir="r"), "ValueError", "none.*manifest.json"),
        (lambda: package.train(cache="none", run_dir="r", batch_size=-1), "ValueError", "batch_size=-1"),
        (
            lambda: package.train({"network": {"_target_": "mynet.Net"}}, cache="c", run_dir="r"),
            "ConfigError",
            "trust=mynet",
        ),
        (lambda: package.train({"trust": "mynet"}, cache="c", run_dir="r"), "ConfigError", "trust"),
        (lambda: package.compose("train", trust="os", cache="c", run_dir="r"), "ConfigError", "trust=os"),
        (lambda: package.compose(5, cache="c", run_dir="r"), "ConfigError", "5"),  # type: ignore[arg-type]
        (lambda: package.compose("train", [("seed", 1)]), "ConfigError", "dictionary.*list"),  # type: ignore[arg-type]
        (lambda: package.compose("train", trust=5), "ConfigError", "trust .*5"),  # type: ignore[arg-type]
        (lambda: package.compose("train", trust=[Path("a")]), "ConfigError", "trust .*a"),  # type: ignore[list-item]
        (lambda: package.compose("train", config={"seed": 1}), "ConfigError", "config .*seed"),  # type: ignore[arg-type]
        (lambda: package.compose("train", config=5), "ConfigError", "config .*5"),  # type: ignore[arg-type]
        (lambda: package.compose("train", config_path=5), "ConfigError", "config_path .*5"),  # type: ignore[arg-type]
        (lambda: package.load_run(5), "ConfigError", "5"),  # type: ignore[arg-type]
        (lambda: package.load_run("none"), "ValueError", "none"),
        (lambda: package.load_run("none", stepss=3), "ConfigError", "stepss.*steps"),
        (lambda: package.load_run("none", prompts=["a"]), "ConfigError", "prompts.*generate"),
        (lambda: package.encode(cache="c", source={"path": "none"}), "ValueError", "none"),
        (lambda: package.run_command("report", run_dir="none", out="page.html"), "ValueError", "none"),
    ],
)
def test_what_cannot_be_done_is_raised(
    call: object, error: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=f"(?s){says}") as raised:
        call()
    assert type(raised.value).__name__ == error or (error == "ValueError" and isinstance(raised.value, ValueError))
    assert "usage" not in "".join(capsys.readouterr())
    assert [*tmp_path.iterdir()] == []


def test_pictures_that_are_left_out_are_an_error_if_strict(pictures: Path, tmp_path: Path) -> None:
    from shutil import copytree

    folder = tmp_path / "pictures"
    copytree(pictures, folder)
    broken = sorted(folder.glob("*.png"))[0]
    broken.write_bytes(b"no picture")
    settings = {"source": {"path": folder}, "image_size": 16, "autoencoder": "identity", "scale_check": False}
    with pytest.raises(ValueError, match=r"report\.json"):
        package.encode(settings, cache=tmp_path / "cache", strict=True)
    assert len(package.encode(settings, cache=tmp_path / "cache")) == 11


def test_the_batches_of_a_cache_are_those_of_a_run(cache: Path) -> None:
    """The same examples, posterior samples and captions as the module that trains has for these positions."""
    from ldm_train import draws
    from ldm_train.data.batches.datamodules import CachedLatents

    opened = package.LatentCache(cache)
    data = CachedLatents(opened, batch_size=3, seed=5, caption_dropout=0.5)
    batches = [*package.iterate_latents(opened, batch_size=3, steps=4, seed=5, caption_dropout=0.5)]
    assert len(batches) == 4
    for step, (latents, captions) in enumerate(batches):
        expected = data.fetch(torch.arange(3 * step, 3 * step + 3))
        noise = draws.normal(5, "posterior", expected.positions, expected.moments.mean.shape[1:])
        raw = latents / opened.manifest.scale + opened.manifest.shift
        torch.testing.assert_close(raw, expected.moments.draw(noise))
        assert latents.dtype == torch.float32
        assert torch.equal(captions.tokens, expected.captions.tokens)
    assert len(opened) == 12
    assert opened.channels == latents.shape[1]


def test_the_conditioner_of_a_cache_fits_its_captions(cache: Path) -> None:
    opened = package.LatentCache(cache)
    text = package.load_conditioner(opened)
    [(_, captions)] = package.iterate_latents(opened, batch_size=3, steps=1)
    conditioning = text(captions)
    assert conditioning.tokens is not None
    assert conditioning.tokens.shape[::2] == (3, text.context_width)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"steps": -1}, "steps=-1"),
        ({"seed": "a"}, "seed='a'"),
        ({"caption_dropout": 2}, "caption_dropout=2"),
        ({"cache": 5}, "cache .*int"),
        ({"cache": "absent"}, "absent"),
    ],
)
def test_a_loop_over_nothing_is_refused_at_the_call(given: dict[str, object], says: str, cache: Path) -> None:
    with pytest.raises(ValueError, match=says):
        package.iterate_latents(**({"cache": cache, "batch_size": 2, "steps": 1} | given))  # type: ignore[arg-type]


def test_a_cache_stands_for_its_folder_and_says_what_it_is(cache: Path) -> None:
    opened = package.LatentCache(cache)
    assert package.compose("train", cache=opened, run_dir="r").as_plain()["cache"] == str(cache)
    for part in (str(cache), "12 pictures", "3 channels", "16"):
        assert part in repr(opened)
    [(latents, _)] = package.iterate_latents(cache, batch_size=2, steps=1)
    assert latents.shape == (2, 3, 16, 16)


def test_prompts_may_have_options_of_their_own(trained: Path) -> None:
    run = package.load_run(trained, device="cpu")
    for part in (str(trained), "step 8", "UNet", "16x16"):
        assert part in repr(run)
    alone = [
        package.generate(run, "a circle", seed=3, steps=2),
        package.generate(run, "a square", seed=7, steps=3, negative_prompt="blue", guidance_scale=3.0),
    ]
    both = package.generate(
        run,
        [
            {"prompt": "a circle"},
            {"prompt": "a square", "seed": 7, "steps": 3, "negative": "blue", "guidance": 3.0},
            "a circle --d 7",
        ],
        seed=3,
        steps=2,
    )
    torch.testing.assert_close(both[:2], torch.cat(alone))
    as_text = package.generate(run, ["", "", "a circle --d 7"], seed=3, steps=2)[2]
    torch.testing.assert_close(both[2], as_text)
    small = package.generate(run, {"prompt": "a circle", "width": 32}, steps=1)
    assert small.shape == (1, 3, 16, 32)


@pytest.mark.parametrize(
    ("prompts", "given", "says"),
    [
        ([], {}, r"prompts=\[\]"),
        (5, {}, "prompts=5"),
        ([None], {}, "prompt 1: None"),
        (["a", {"text": "b"}], {}, "prompt 2: {'text': 'b'}"),
        ({"prompt": "a", "sede": 3}, {}, "sede.*seed"),
        ({"prompt": "a", "steps": 0}, {}, "steps: 0"),
        ({"prompt": "a", "width": 17}, {}, "prompt 1: size=.*17"),
        ([{"prompt": "a", "width": 32}, "b"], {}, r"different sizes.*\(16, 16\).*\(16, 32\)"),
        ("a", {"seed": 1.5}, "seed: 1.5"),
        ("a", {"steps": 0}, "steps: 0"),
        ("a", {"guidance_scale": "high"}, "guidance: high"),
        ("a", {"batch_size": 0}, "batch_size=0"),
        ("a", {"sampler": package.samplers.DDIM}, "sampler=.*DDIM"),
    ],
)
def test_what_cannot_be_drawn_is_named(prompts: object, given: dict[str, object], says: str, trained: Path) -> None:
    run = package.load_run(trained, device="cpu")
    with pytest.raises(ValueError, match=says):
        package.generate(run, prompts, **given)  # type: ignore[arg-type]


def test_a_run_is_needed_to_draw() -> None:
    with pytest.raises(ValueError, match=r"load_run.*str"):
        package.generate("outputs/a", "a circle")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"network": "unet_small"}, "network='unet_small'"),
        ({"optimizer": {"lr": 1.0}}, "optimizer=.*lr"),
        ({"network": package.networks.DiffusersUNet}, "DiffusersUNet.*UNet"),
    ],
)
def test_an_object_that_a_run_does_not_take_is_named(given: dict[str, object], says: str, trained: Path) -> None:
    with pytest.raises(package.ConfigError, match=says):
        package.load_run(trained, **given)


def test_what_only_trained_a_run_needs_no_trust(trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    text = (run_dir / "config.yaml").read_text()
    own = re.sub(r"(?s)\noptimizer:\n.*?\n(?=\S)", "\noptimizer:\n  _target_: mynet.Descent\n  _partial_: true\n", text)
    assert own != text
    (run_dir / "config.yaml").write_text(own)
    assert package.load_run(run_dir, device="cpu").step == 8
    (run_dir / "config.yaml").write_text(own.replace("ldm_train.networks.unet.UNet", "mynet.Net"))
    with pytest.raises(ValueError, match="trust=mynet"):
        package.load_run(run_dir, device="cpu")


@pytest.mark.parametrize("images", [[1], np.zeros((1, 3, 4, 4)), torch.zeros(3, 4, 4), torch.zeros(0, 3, 4, 4), BYTES])
def test_a_grid_needs_images(images: object) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        package.picture_grid(images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="columns=0"):
        package.picture_grid(torch.zeros(1, 3, 4, 4), columns=0)


def test_a_path_in_a_file_is_no_command(tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text(f"source: webdataset\nsource.path: 'pipe:touch {tmp_path}/ran'\n")
    with pytest.raises(ValueError, match="pipe:"):
        package.encode(config=tmp_path / "given.yaml", source={"lines": "one"}, cache=str(tmp_path / "cache"))
    assert not (tmp_path / "ran").exists()


def test_a_program_that_uses_hydra_itself_keeps_its_state() -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    with hydra.initialize(config_path=None, version_base="1.3"):
        state = GlobalHydra.instance().hydra
        package.compose("train", cache="c", run_dir="r")
        assert GlobalHydra.instance().hydra is state


def test_threads_compose_side_by_side_and_leave_no_grant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "threadnet.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)

    def compose(number: int) -> object:
        given = {"network": {"_target_": "threadnet.Net"}} if number % 2 else {}
        trust = "threadnet" if number % 2 else ()
        return package.compose("train", given, cache="c", run_dir="r", seed=number, trust=trust).as_plain()["seed"]

    before = [*sys.path]
    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(compose, range(12))] == [*range(12)]
    assert current_grants() == Grants()
    assert sys.path == before
    assert not describe_call().startswith("ldm_train.")
    with pytest.raises(package.ConfigError, match="trust=threadnet"):
        package.compose("train", {"network": {"_target_": "threadnet.Net"}}, cache="c", run_dir="r")


def test_a_grid_shows_every_image() -> None:
    images = torch.linspace(-1, 1, 5).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    colours = package.picture_grid(images, columns=3).convert("L").getcolors()
    assert colours is not None
    assert {0, 64, 128, 191, 255} <= {value for _, value in colours}


def test_settings_are_composed_without_a_training() -> None:
    settings = package.compose("train", {"schedule": "cosine", "schedule.shift": 2.0}, cache="c", run_dir="r", network=Typed)
    plain = settings.as_plain()
    assert plain["schedule"]["shift"] == 2.0
    assert plain["network"]["_target_"] == "from_python.__main__.Typed"
    assert json.loads(json.dumps(plain)) == plain
