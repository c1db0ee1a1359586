"""What is imported for a command is not looked through for garbage, and everything else is."""

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldm_train.util.heavy_imports import import_heavy


class Cycle:
    def __init__(self) -> None:
        self.own = self


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules that keep whether Python looks for garbage while they are imported; one fails."""
    (tmp_path / "heavy_module.py").write_text("import gc\nlooks = gc.isenabled()\n")
    (tmp_path / "heavy_failure.py").write_text("raise ValueError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    gc.unfreeze()
    for name in ("heavy_module", "heavy_failure"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("heavy")
class TestImportHeavy:
    def test_a_new_process_looks_for_no_garbage_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        assert not import_heavy("heavy_module").looks
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0

    def test_garbage_of_later_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        import_heavy("heavy_module")
        gone = weakref.ref(Cycle())
        gc.collect()
        assert gone() is None

    def test_a_program_that_has_pytorch_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", sys)
        before = gc.get_freeze_count()
        assert import_heavy("heavy_module").looks
        assert gc.get_freeze_count() == before

    def test_a_failure_leaves_python_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        with pytest.raises(ValueError, match="no"):
            import_heavy("heavy_failure")
        assert gc.isenabled()
