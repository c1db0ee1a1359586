"""Modules of other packages that give a few names before they run, and run when a program needs more of them.

Lightning imports torchmetrics for two classes and PyTorch's compiler for one, and each optimizer imports the compiler to say
that it is not to be compiled. Both together were half of the time until a first step, and a quarter of its memory.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType


class LightModule(MetaPathFinder, Loader):
    """Find and load a module that runs when a name is asked for that it does not give, or a module inside it.

    Args:
        name: the module.
        give: returns the names that it gives before it runs; if it fails, or asks for other names, the module runs at once.
        then: what follows when it has run.
    """

    def __init__(self, name: str, give: Callable[[], Mapping[str, object]], then: Callable[[], None]) -> None:
        self.name = name
        self.give = give
        self.then = then
        self.lock = RLock()
        self.module = ModuleType(name)
        self.waiting: ModuleType | None = None  # the module, while it has not run
        self.loader: Loader | None = None

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.startswith(f"{self.name}.") and self.waiting is not None:
            self.run()
            return ModuleSpec(fullname, Imported(sys.modules[fullname])) if fullname in sys.modules else None
        if fullname != self.name:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        assert self.loader is not None
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert self.loader is not None
        before = set(sys.modules)
        try:
            vars(module).update(self.give())
        except Exception:  # another version, in which the names are elsewhere, or need more
            for name in [name for name in sys.modules.keys() - before if name.startswith(f"{self.name}.")]:
                del sys.modules[name]
            self.loader.exec_module(module)
            return
        vars(module)["__getattr__"] = self.find_name
        self.module = self.waiting = module

    def find_name(self, name: str) -> object:
        """Return a name that the module did not give, which runs it."""
        if not name.startswith("__") or name == "__all__":  # inspect, copy and others ask every module for the rest
            self.run()
            if name in vars(self.module):
                return vars(self.module)[name]
            if (own := vars(self.module).get("__getattr__")) not in (None, self.find_name):
                return own(name)
        raise AttributeError(f"module {self.name!r} has no attribute {name!r}")

    def run(self) -> None:
        with self.lock:
            module, self.waiting = self.waiting, None
            if module is None:
                return
            assert self.loader is not None
            try:
                self.loader.exec_module(module)
            except BaseException:  # a signal, for one: whoever asks again runs it again
                self.waiting = module
                raise
            if vars(module).get("__getattr__") == self.find_name:
                del module.__getattr__
            self.then()


class Imported(Loader):
    """Load a module by returning one that was imported in the meantime."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def import_lightly(name: str, give: Callable[[], Mapping[str, object]], *, then: Callable[[], None] = lambda: None) -> None:
    """Have a module, unless it is imported already, run only when a program needs more names of it than these.

    Args:
        then: what follows when it has run.
    """
    known = {finder.name for finder in sys.meta_path if isinstance(finder, LightModule)}
    if name not in sys.modules and name not in known:
        sys.meta_path.insert(0, LightModule(name, give, then))
