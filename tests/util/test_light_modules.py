"""Modules that run only when a program needs more of them than a few names."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ldm_train.util.light_modules import LightModule, import_lightly

INIT = "from heavy.parts import small\nran = True\nbig = 5\nsmall = 'run'\n"


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `heavy` with a module `heavy.parts`, of which nothing is left afterwards."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy/__init__.py").write_text(INIT)
    (tmp_path / "heavy/parts.py").write_text("count = []\nsmall = 'part'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "name", None) != "heavy"]
    for name in ("heavy", "heavy.parts"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("heavy")
class TestLightModule:
    def test_a_given_name_runs_nothing(self) -> None:
        import_lightly("heavy", lambda: {"small": "given"})
        module = importlib.import_module("heavy")
        assert module.small == "given"
        assert "ran" not in vars(module)

    @pytest.mark.parametrize("name", ["big", "ran"])
    def test_another_name_runs_it_once(self, name: str) -> None:
        ran: list[int] = []
        import_lightly("heavy", lambda: {"small": "given"}, then=lambda: ran.append(1))
        module = importlib.import_module("heavy")
        assert getattr(module, name)
        assert module.small == "run"
        assert (module.big, ran) == (5, [1])

    def test_an_unknown_name_is_refused_as_ever(self) -> None:
        import_lightly("heavy", lambda: {})
        module = importlib.import_module("heavy")
        with pytest.raises(AttributeError):
            module.__nothing__  # noqa: B018
        assert "ran" not in vars(module)
        with pytest.raises(AttributeError):
            module.nothing  # noqa: B018

    def test_a_module_inside_runs_it_first_and_is_there_once(self) -> None:
        import_lightly("heavy", lambda: {"small": "given"})
        module = importlib.import_module("heavy")
        parts = importlib.import_module("heavy.parts")
        assert vars(module)["ran"]
        assert parts is sys.modules["heavy.parts"]
        assert parts is vars(module)["parts"]
        assert importlib.import_module("heavy.parts") is parts
        assert parts.__spec__.loader.__class__.__name__ == "SourceFileLoader"

    @pytest.mark.parametrize("error", [ImportError, AttributeError, TypeError])
    def test_names_that_are_elsewhere_have_it_run_at_once(self, error: type[Exception]) -> None:
        def give() -> dict[str, object]:
            importlib.import_module("heavy.parts").count.append(1)
            raise error

        import_lightly("heavy", give)
        module = importlib.import_module("heavy")
        assert vars(module)["big"] == 5
        assert sys.modules["heavy.parts"].count == []  # imported anew

    def test_one_that_was_stopped_while_it_ran_runs_when_it_is_asked_again(self, tmp_path: Path) -> None:
        import_lightly("heavy", lambda: {"small": "given"})
        module = importlib.import_module("heavy")
        (tmp_path / "heavy/parts.py").write_text("raise KeyboardInterrupt\n")
        with pytest.raises(KeyboardInterrupt):
            module.big  # noqa: B018
        (tmp_path / "heavy/parts.py").write_text("small = 'a part that is well again'\n")
        assert module.big == 5
        assert module.small == "run"

    def test_its_own_way_to_find_names_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "heavy/__init__.py").write_text("def __getattr__(name):\n    return f'own {name}'\n")
        import_lightly("heavy", lambda: {})
        module = importlib.import_module("heavy")
        assert [module.first, module.second] == ["own first", "own second"]

    def test_another_thread_waits_until_it_has_run(self, tmp_path: Path) -> None:
        (tmp_path / "heavy/__init__.py").write_text("import time\ntime.sleep(0.2)\nbig = 5\n")
        import_lightly("heavy", lambda: {})
        module = importlib.import_module("heavy")
        with ThreadPoolExecutor(4) as threads:
            assert [*threads.map(lambda number: module.big, range(4))] == [5] * 4

    def test_what_is_imported_already_is_left(self) -> None:
        module = importlib.import_module("heavy")
        import_lightly("heavy", lambda: {"small": "given"})
        assert importlib.import_module("heavy") is module
        assert not any(isinstance(finder, LightModule) and finder.name == "heavy" for finder in sys.meta_path)


def run_python(code: str, path: Path | None = None) -> None:
    """Run code in a process in which heavy modules run when they are needed; modules are found in `path` first."""
    first = "import sys; from ldm_train.util.light_tables import import_what_is_needed; import_what_is_needed()\n"
    command = [sys.executable, "-c", f"{first}{code}"]
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path)})
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_program_that_imports_the_package_imports_others_as_ever() -> None:
    code = "import sys, ldm_train; ldm_train.Denoiser, ldm_train.train, ldm_train.load_run"
    command = f"{code}; assert not [finder for finder in sys.meta_path if type(finder).__name__ == 'LightModule']"
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_lightning_and_an_optimizer_need_neither_all_metrics_nor_the_compiler() -> None:
    run_python(
        "import pytorch_lightning, torch\n"
        "weight = torch.ones(2, requires_grad=True)\n"
        "optimizer = torch.optim.AdamW([weight])\n"
        "weight.sum().backward(); optimizer.step(); optimizer.zero_grad(); optimizer.state_dict()\n"
        "heavy = {'torch._dynamo.eval_frame', 'matplotlib', 'scipy', 'torchvision', 'transformers', 'sympy'}\n"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules}\n"
    )


@pytest.mark.slow
def test_the_compiler_is_whole_when_something_is_compiled() -> None:
    run_python(
        "import pytorch_lightning.utilities.compile as lightning, torch\n"
        "layer = torch.nn.Linear(2, 2)\n"
        "assert not isinstance(layer, lightning.OptimizedModule)\n"
        "assert 'torch._dynamo.eval_frame' not in sys.modules\n"
        "compiled = torch.compile(layer, backend='eager')\n"
        "assert isinstance(compiled, lightning.OptimizedModule) and not isinstance(layer, lightning.OptimizedModule)\n"
        "assert torch.equal(compiled(torch.ones(1, 2)), layer(torch.ones(1, 2)))\n"
        "assert torch._dynamo.OptimizedModule is sys.modules['torch._dynamo.eval_frame'].OptimizedModule\n"
    )


KEEPING = """
import torch, torch._dynamo
from torch._dynamo import disable as early
ways = [
    torch.compiler.disable, torch._dynamo.disable, torch._disable_dynamo, early, lambda f: early(f, True, wrapping=False),
    lambda f: torch._dynamo.disable(f, recursive=False),
]
def keep(way):
    kept = way(lambda x: x + 1)
    assert kept(torch.ones(1)) == 2
    return kept
before = [keep(way) for way in ways]
assert "torch._dynamo.eval_frame" not in sys.modules
after = [keep(way) for way in [early(), torch._dynamo.disable(), *ways]]
assert "torch._dynamo.eval_frame" in sys.modules
def graph(module, inputs):
    raise AssertionError("compiled")
for kept in before + after:
    assert torch.compile(lambda x: kept(x), backend=graph)(torch.ones(1)) == 2
"""


@pytest.mark.slow
def test_a_function_that_is_kept_from_the_compiler_is_not_compiled() -> None:
    """Also where it was called before the compiler ran, by whoever remembers what the compiler's function returned then."""
    run_python(KEEPING)


@pytest.mark.slow
def test_all_metrics_are_there_when_one_is_asked_for() -> None:
    run_python(
        "import pytorch_lightning, torch, torchmetrics\n"
        "base = torchmetrics.Metric\n"
        "mean = torchmetrics.MeanMetric()\n"
        "assert isinstance(mean, base) and base is torchmetrics.Metric\n"
        "mean.update(torch.tensor([1.0, 3.0])); assert mean.compute() == 2\n"
        "from torchmetrics.image.fid import FrechetInceptionDistance\n"
        "figure, axes = mean.plot()\n"
        "assert type(figure).__name__ == 'Figure'\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "files",
    [
        {"__init__.py": "Metric = MetricCollection = int\n"},
        {"__init__.py": "from torchmetrics.utilities.checks import own as Metric\n", "utilities/checks.py": "own = int\n"},
        {"__init__.py": "Metric = int\n", "utilities/checks.py": "import torchmetrics\nMetric = torchmetrics._other.name\n"},
    ],
    ids=["one module", "other names", "more is needed"],
)
def test_another_version_of_a_package_is_imported_as_ever(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / "torchmetrics" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "torchmetrics" / name).write_text(text)
    run_python(f"import torchmetrics; assert torchmetrics.__path__[0] == {str(tmp_path / 'torchmetrics')!r}", tmp_path)
    run_python("from torchmetrics import Metric; assert Metric is int", tmp_path)
