"""Write the README's table of options from the configs, and the plot of each schedule's log-SNR.

    python scripts/describe_options.py

What the README says of an option is the first paragraph of its constructor's docstring.
"""

import inspect
from pathlib import Path

import matplotlib
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ldm_train.diffusion.schedule import NoiseSchedule
from ldm_train.tasks.config import build, folder, groups

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
README, PLOT = ROOT / "README.md", ROOT / "docs" / "pictures" / "schedules.png"
GROUPS = ("schedule", "prediction", "timesteps", "weighting", "sampler", "spacing", "guidance")
START, END = "<!-- options: made by scripts/describe_options.py -->\n", "<!-- end of options -->\n"


def option(group: str, name: str) -> DictConfig:
    config = OmegaConf.load(folder() / group / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    return config


def first_paragraph(target: str) -> str:
    """Of a constructor's docstring, in one line."""
    text = inspect.getdoc(get_object(target)) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", r"\|")


def settings(config: DictConfig) -> str:
    """An option's settings with their defaults; `???` must be given."""
    names = [str(name) for name in config if not str(name).startswith("_")]
    values = ["???" if OmegaConf.is_missing(config, name) else config[name] for name in names]
    shown = ("null" if value is None else str(value).lower() for value in values)
    return ", ".join(f"`{name}={value}`" for name, value in zip(names, shown, strict=True))


def table() -> str:
    """The README's table, as Markdown."""
    lines = ["| option | what it is | settings |", "|---|---|---|"]
    for group in GROUPS:
        for name in groups()[group]:
            config = option(group, name)
            lines.append(f"| `{group}={name}` | {first_paragraph(config._target_)} | {settings(config)} |")
    return "\n".join(lines) + "\n"


def renewed(readme: str) -> str:
    """A README with the table as it should be."""
    before, _, rest = readme.partition(START)
    return before + START + "\n" + table() + "\n" + END + rest.partition(END)[2]


def schedules() -> dict[str, NoiseSchedule]:
    """Every schedule that needs no further setting, and the zero-terminal-SNR form of the default."""
    complete = [name for name in groups()["schedule"] if not OmegaConf.missing_keys(option("schedule", name))]
    found = {name: build(option("schedule", name)) for name in complete}
    default = option("schedule", "scaled_linear")
    return found | {"scaled_linear, zero_terminal_snr": build(OmegaConf.merge(default, {"zero_terminal_snr": True}))}  # type: ignore[arg-type]


def plot(path: Path) -> None:
    """log-SNR over t, from clean (left) to noise (right)."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, schedule in schedules().items():
        t = torch.linspace(schedule.start, schedule.end, 1000, dtype=torch.float64)
        axes.plot(t / schedule.end, schedule.log_snr(t).clamp(-25, 15), label=name)
    axes.set(xlabel="t / end", ylabel="log-SNR", ylim=(-22, 14), title="Noise schedules")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
    plot(PLOT)
    print(f"renewed {README} and {PLOT}")


if __name__ == "__main__":
    main()
