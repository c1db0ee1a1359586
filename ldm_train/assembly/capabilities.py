"""Ask a device what it can do, and switch TF32; torch is imported only if it must be asked, since that takes seconds."""

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec

from ldm_train.settings.schema.options import TrainerSettings
from ldm_train.util.cpu_kind import multiplies_bfloat16

DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/dxg")  # of NVIDIA's GPUs: servers, Tegra, WSL


@dataclass(frozen=True)
class Capabilities:
    """What the device that a command computes on can do.

    Args:
        name: for people.
        bfloat16: whether it computes with bfloat16 in hardware, faster than with float32.
        tf32: whether it can multiply float32 numbers rounded to TF32's 10 bits, several times faster.
        compiler: whether what torch.compile needs for it is installed.
    """

    name: str = "the CPU"
    gpu: bool = False
    bfloat16: bool = False
    tf32: bool = False
    compiler: bool = False


def read_capabilities(accelerator: str) -> Capabilities:
    """Return what the device can do that Lightning takes for this `trainer.accelerator`."""
    import torch

    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return Capabilities(
            torch.cuda.get_device_name(),
            gpu=True,
            bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
            tf32=torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0),
            compiler=find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang"))),
        )
    mps = accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available()
    return Capabilities("Apple's GPU", gpu=True) if mps else Capabilities(bfloat16=multiplies_bfloat16())


def uses_tf32(trainer: TrainerSettings) -> bool:
    """Return whether these settings multiply float32 numbers as TF32, which changes results in the fourth digit."""
    possible = trainer.tf32 and trainer.accelerator != "cpu" and has_gpu_driver()
    return possible and read_capabilities(trainer.accelerator).tf32


def has_gpu_driver() -> bool:
    """Return whether this machine may have a GPU with TF32, without importing torch."""
    return os.name == "nt" or any(map(os.path.exists, DRIVERS))


def set_tf32(on: bool) -> bool:
    """Switch TF32 on or off, in matrix products and convolutions alike; return the argument."""
    import torch

    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    return on
