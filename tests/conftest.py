"""What the tests share: a folder of drawn pictures, a cache of them, a trained run, and a way to call the command."""

import atexit
import contextlib
import gc
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}  # read when their libraries are imported

import pytest
from PIL import Image, ImageDraw

from ldm_train.util.messages import print_messages

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

# What libraries leave in the temporary directory, most of it in processes that were killed, goes with the tests.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
LEFT = tempfile.mkdtemp(prefix="ldm-train-tests-")
os.environ["TMPDIR"] = tempfile.tempdir = LEFT
atexit.register(shutil.rmtree, LEFT, ignore_errors=True)  # the last thing that is done at the end

# As in a terminal, also under nohup, where SIGHUP is ignored, and in the background of a script, where SIGINT and SIGQUIT
# are: some tests send them, to this process and to those that inherit its settings.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())

SIDE = 16
BACKGROUNDS = ("red", "lime", "blue", "white")
SHAPES = ("circle", "square", "triangle")
HELD_OUT = {("circle", "red"), ("square", "blue"), ("triangle", "white")}

os.fsync = lambda descriptor: None  # a test loses nothing at a power cut, and waiting for the disk took most of their time

PICTURES = ["autoencoder=identity", f"image_size={SIDE}"]
TEXT = ["text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=4"]
NETWORK = ["network.channels=[16,32]", "network.head_size=8", "network.expansion=1"]
SHORT = [
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "threads=1",
    "batch_size=4",
    "max_steps=8",
    "optimizer.lr=1e-3",
    "lr_schedule.warmup_steps=2",
    "checkpoint.every=3",
    "pictures.every=4",
]
WATCHED = ["pictures.steps=4", "pictures.count=2", "validation.every=4", "validation.repeats=2", "metrics.every=null"]


# Fixtures with which a test trains; `trained` is not among them, the one short run that all may read.
TRAINING = {"train", "train_autoencoder", "run_with", "power_cut"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what trains: every test that asks for a fixture of TRAINING, by itself or through another fixture."""
    for item in items:
        if TRAINING & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


started: list[str] = []  # what the present test did that only slow ones may do


def note_process(event: str, arguments: tuple[object, ...]) -> None:
    """Note each start of a Python process."""
    if event == "os.fork" or (event == "subprocess.Popen" and "python" in Path(str(arguments[0])).name):
        started.append(f"a process ({event})")


sys.addaudithook(note_process)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    started.clear()
    print_messages()  # what a test calls without the command line is printed too


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail a test without the marker `slow` in which a Python process or a training started, also in its fixtures."""
    if started and not item.get_closest_marker("slow"):
        pytest.fail(f"{item.name} starts {started[0]}: mark it with @pytest.mark.slow", pytrace=False)


frozen: set[str] = set()  # modules whose objects need not be looked at again


def collect_garbage() -> None:
    """Free a run's Trainer, modules and optimizers: they refer to each other, and Python collects too rarely by itself."""
    gc.collect()
    if len(sys.modules.keys() - frozen) > 50:  # counting by gc.get_objects would disturb a thread that builds a tuple
        frozen.update(sys.modules)
        gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def collect_after_each_file() -> Iterator[None]:
    """Free the networks that a file's tests made themselves."""
    yield
    collect_garbage()


@dataclass(frozen=True)
class Answer:
    """What a command line came to."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


def _command(*words: str | Path) -> Answer:
    from ldm_train.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    prints = {"--help", "--print-config", "--dry-run"} & {*words}
    if ended.value.code == 0 and {"train", "train_autoencoder"} & {*words[:1]} and not prints:
        started.append("a training")
    collect_garbage()
    return Answer(ended.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def ldm_train() -> Command:
    """`ldm_train("train", "cache=…")` runs a command line in this process and gives its exit code, stdout and stderr."""
    return _command


def draw(shape: str, background: str) -> Image.Image:
    """A black shape in the middle of a coloured square; the corners show the background."""
    picture = Image.new("RGB", (SIDE, SIDE), background)
    pen, box = ImageDraw.Draw(picture), (4, 4, SIDE - 5, SIDE - 5)
    if shape == "circle":
        pen.ellipse(box, fill="black")
    elif shape == "square":
        pen.rectangle(box, fill="black")
    else:
        pen.polygon([(SIDE // 2, 4), (4, SIDE - 5), (SIDE - 5, SIDE - 5)], fill="black")
    return picture


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve captioned PNG files, three of them held out, with metadata.jsonl; one has two captions."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for shape in SHAPES:
        for background in BACKGROUNDS:
            name = f"{shape}-{background}.png"
            draw(shape, background).save(folder / name)
            caption = f"a black {shape} on a {background} background"
            split = {"split": "held_out"} if (shape, background) in HELD_OUT else {}
            text = [caption, f"{shape}, {background}"] if name == "circle-blue.png" else caption
            rows.append({"file_name": name, "text": text, "background": background} | split)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def encode(ldm_train: Command) -> Callable[..., Answer]:
    """`encode(source, cache, *overrides)`: encode with the identity and a tiny text encoder."""
    return lambda source, cache, *more: ldm_train(
        "encode", f"source.path={source}", f"cache={cache}", *PICTURES, *TEXT, *more
    )


@pytest.fixture(scope="session")
def cache(pictures: Path, encode: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures encoded as they are, in float32."""
    folder = tmp_path_factory.mktemp("caches") / "identity"
    answer = encode(pictures, folder, "dtype=float32")
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture(scope="session")
def train_words() -> list[str]:
    """Overrides of `train` for eight steps of a tiny network."""
    return [*NETWORK, *SHORT, *WATCHED]


@pytest.fixture(scope="session")
def train(ldm_train: Command, train_words: list[str]) -> Callable[..., Answer]:
    """`train(cache, run_dir, *overrides)`: eight steps of a tiny network."""
    return lambda cache, run_dir, *more: ldm_train("train", f"cache={cache}", f"run_dir={run_dir}", *train_words, *more)


@pytest.fixture(scope="session")
def trained(cache: Path, ldm_train: Command, train_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny run, to read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    answer = ldm_train("train", f"cache={cache}", f"run_dir={run_dir}", *train_words)
    assert answer.code == 0, answer.err
    started.clear()
    return run_dir


@pytest.fixture(scope="session")
def run_with(
    cache: Path, train: Callable[..., Answer], trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`run_with(*overrides)`: the directory of a run on the cache, trained once for each distinct list of overrides."""
    runs: dict[tuple[str, ...], Path] = {(): trained}

    def run(*overrides: str) -> Path:
        if overrides not in runs:
            run_dir = tmp_path_factory.mktemp("runs") / "run"
            answer = train(cache, run_dir, *overrides)
            assert answer.code == 0, answer.err
            runs[overrides] = run_dir
        return runs[overrides]

    return run


@pytest.fixture(scope="session")
def autoencoder_settings() -> list[str]:
    """Overrides of `train_autoencoder` for a tiny architecture and a few steps."""
    return ["architecture.channels=[8,16]", "architecture.groups=4", f"image_size={SIDE}", *SHORT]


class PowerCutError(Exception):
    """What ends a run in the middle."""


@pytest.fixture(scope="session")
def power_cut() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """`with power_cut(5): …` ends a run after its fifth step and all that was due then."""
    from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints

    original = Checkpoints.on_train_batch_end

    @contextlib.contextmanager
    def cut(at: int) -> Iterator[None]:
        def then_fail(self: Checkpoints, trainer: "Trainer", *rest: object) -> None:
            original(self, trainer, *rest)  # type: ignore[arg-type]
            if trainer.global_step == at:
                raise PowerCutError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoints, "on_train_batch_end", then_fail)
            with pytest.raises(PowerCutError):
                yield

    return cut
