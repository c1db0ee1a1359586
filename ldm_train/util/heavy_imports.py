"""Import what makes very many objects that all stay.

Python looks for garbage among them while they are made, and again when the process ends: a quarter of the time of a short
command. So it looks for none meanwhile, and never among them later, which also keeps their memory shared with forks.
"""

import gc
import importlib
import sys
from types import ModuleType


def import_heavy(name: str) -> ModuleType:
    """Import a module, and have what was imported with it never be looked through for garbage.

    A process that has PyTorch already is somebody's own program: its garbage is left alone.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        module = importlib.import_module(name)
        gc.freeze()
    finally:
        gc.enable()
    return module
