"""Plot the log-SNR of every noise schedule for the manual.

python scripts/plot_schedules.py
"""

from pathlib import Path

import matplotlib
import torch
from hydra.utils import instantiate
from manual.settings import list_groups
from omegaconf import OmegaConf

from ldm_train.diffusion.schedules.schedule import NoiseSchedule

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PLOT = Path(__file__).parent.parent / "docs" / "pictures" / "schedules.png"


def build_schedules() -> dict[str, NoiseSchedule]:
    """Return every schedule that needs no further setting, and the zero-terminal-SNR form of the default."""
    options = {path.stem: OmegaConf.load(path) for path in list_groups()["schedule"]}
    schedules = {name: instantiate(option) for name, option in options.items() if not OmegaConf.missing_keys(option)}
    zero_snr = instantiate(options["scaled_linear"], zero_terminal_snr=True)
    return schedules | {"scaled_linear, zero_terminal_snr": zero_snr}


def plot(path: Path) -> None:
    """Plot log-SNR over t, from clean (left) to noise (right)."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, schedule in build_schedules().items():
        t = torch.linspace(schedule.start, schedule.end, 1000, dtype=torch.float64)
        axes.plot(t / schedule.end, schedule.log_snr(t).clamp(-25, 15), label=name)
    axes.set(xlabel="t / end", ylabel="log-SNR", ylim=(-22, 14), title="Noise schedules")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    plot(PLOT)
