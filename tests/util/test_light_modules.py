"""Modules that run only when a program needs more of them than a few names."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
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

    @pytest.mark.parametrize("error", [ImportError, AttributeError])
    def test_names_that_are_elsewhere_have_it_run_at_once(self, error: type[Exception]) -> None:
        def give() -> dict[str, object]:
            importlib.import_module("heavy.parts").count.append(1)
            raise error

        import_lightly("heavy", give)
        module = importlib.import_module("heavy")
        assert vars(module)["big"] == 5
        assert sys.modules["heavy.parts"].count == []  # imported anew

    def test_what_is_imported_already_is_left(self) -> None:
        module = importlib.import_module("heavy")
        import_lightly("heavy", lambda: {"small": "given"})
        assert importlib.import_module("heavy") is module
        assert not any(isinstance(finder, LightModule) and finder.name == "heavy" for finder in sys.meta_path)


def run_python(code: str) -> None:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_lightning_and_an_optimizer_need_neither_all_metrics_nor_the_compiler() -> None:
    run_python(
        "import sys, ldm_train, pytorch_lightning, torch\n"
        "weight = torch.ones(2, requires_grad=True)\n"
        "optimizer = torch.optim.AdamW([weight])\n"
        "weight.sum().backward(); optimizer.step(); optimizer.zero_grad(); optimizer.state_dict()\n"
        "heavy = {'torch._dynamo.eval_frame', 'matplotlib', 'scipy', 'torchvision', 'transformers', 'sympy'}\n"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules}\n"
    )


@pytest.mark.slow
def test_the_compiler_is_whole_when_something_is_compiled() -> None:
    run_python(
        "import sys, ldm_train, pytorch_lightning.utilities.compile as lightning, torch\n"
        "optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)])\n"
        "zero_grad = torch.optim.Optimizer.zero_grad.__wrapped__\n"
        "optimizer.zero_grad()\n"
        "assert vars(zero_grad)['__dynamo_disable'] is zero_grad\n"
        "layer = torch.nn.Linear(2, 2)\n"
        "assert not isinstance(layer, lightning.OptimizedModule)\n"
        "compiled = torch.compile(layer, backend='eager')\n"
        "assert '__dynamo_disable' not in vars(zero_grad)\n"
        "assert isinstance(compiled, lightning.OptimizedModule)\n"
        "assert torch.equal(compiled(torch.ones(1, 2)), layer(torch.ones(1, 2)))\n"
        "optimizer.zero_grad()\n"
        "assert vars(zero_grad)['__dynamo_disable'] is not zero_grad\n"
        "assert torch._dynamo.OptimizedModule is sys.modules['torch._dynamo.eval_frame'].OptimizedModule\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("decorator", ["torch.compiler.disable", "torch._dynamo.disable", "torch._dynamo.disable()"])
def test_a_function_that_others_keep_from_the_compiler_is_kept_from_it(decorator: str) -> None:
    run_python(
        f"import ldm_train, pytorch_lightning, torch\nimport torch._dynamo\n@{decorator}\ndef f(x):\n    return x + 1\n"
        "def graph(module, inputs):\n    raise AssertionError('compiled')\n"
        "assert torch.compile(lambda x: f(x), backend=graph)(torch.ones(1)) == 2\n"
    )


@pytest.mark.slow
def test_all_metrics_are_there_when_one_is_asked_for() -> None:
    run_python(
        "import ldm_train, pytorch_lightning, torch, torchmetrics\n"
        "base = torchmetrics.Metric\n"
        "mean = torchmetrics.MeanMetric()\n"
        "assert isinstance(mean, base) and base is torchmetrics.Metric\n"
        "mean.update(torch.tensor([1.0, 3.0])); assert mean.compute() == 2\n"
        "from torchmetrics.image.fid import FrechetInceptionDistance\n"
        "figure, axes = mean.plot()\n"
        "assert type(figure).__name__ == 'Figure'\n"
    )
