"""Write the README's table of options from the configs, its tables of speed from docs/results, and plot the schedules.

    python scripts/renew_readme.py

What the README says of an option is the first paragraph of its constructor's docstring.
"""

import inspect
import json
import unicodedata
from pathlib import Path
from typing import Any

import matplotlib
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.settings.composition import build, folder, groups
from ldm_train.settings.schema.kinds import MISSING
from ldm_train.settings.shipped import shipped_part

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
README, PLOT = ROOT / "README.md", ROOT / "docs" / "pictures" / "schedules.png"
GROUPS = ("schedule", "prediction", "timesteps", "weighting", "sampler", "spacing", "guidance")
RESULTS = ROOT / "docs" / "results"


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
    shown = ("null" if value is None else str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return ", ".join(f"`{name}={value}`" for name, value in zip(names, shown, strict=True))


def options() -> str:
    lines = ["| option | what it is | settings |", "|---|---|---|"]
    for group in GROUPS:
        for name in groups()[group]:
            config = option(group, name)
            lines.append(f"| `{group}={name}` | {first_paragraph(config._target_)} | {settings(config)} |")
    return "\n".join(lines)


def data() -> str:
    """The ways to give pictures, by the first lines of their configs."""
    lines = ["| option | what it is | settings |", "|---|---|---|"]
    for group in ("source", "crop"):
        for name in groups()[group]:
            header = (folder() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
            lines.append(f"| `{group}={name}` | {header.removeprefix('# ')} | {settings(option(group, name))} |")
    return "\n".join(lines)


def figures(name: str) -> dict[str, dict[str, float]]:
    """What a benchmark measured."""
    measured = json.loads((RESULTS / f"benchmark_{name}.json").read_text(encoding="utf-8"))
    return {case: values for case, values in measured.items() if isinstance(values, dict)}


def ratio(values: dict[str, float]) -> str:
    return f"{values['ratio']:.2f}x ({values['ratio_quartile_1']:.2f} to {values['ratio_quartile_3']:.2f})"


def results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def caches() -> str:
    """What scripts/benchmark_data.py and scripts/chaos_encode.py measured."""
    lines = ["| what | measured | by |", "|---|---|---|"]
    for name, mode, what in (
        ("data_encode", "encode", "the quick start's autoencoder"),
        ("data_encode_large", "large", "an autoencoder of Stable Diffusion's size"),
    ):
        found = results(name)
        shares = f"{found['share']:.1%} ({min(found['shares']):.1%} to {max(found['shares']):.1%})"
        lines.append(
            f"| decoding and {what} alone, as a share of the CPU time of encoding {found['pictures']:,} pictures of 512x512 "
            "at 256 "
            f"| {shares} | [`benchmark_data.py {mode}`](docs/results/{name}.json) |"
        )
    reading = results("data_read")
    few, many = (reading[f"{count} records"]["warm"] for count in (1_000, 100_000))
    grown = (many["after_bytes"] - few["after_bytes"]) / 2**20
    lines.append(
        "| latents of 4x32x32 and embeddings of 77x768, shuffled, in batches of 64, one process, 100,000 records (13.5 GB) "
        "that the page cache holds "
        f"| {many['samples_per_s']:,.0f} examples/s | [`benchmark_data.py read`](docs/results/data_read.json) |"
    )
    lines.append(
        "| the same, first time from the disk | "
        f"{reading['100000 records']['cold']['samples_per_s']:,.0f} examples/s | the same |"
    )
    lines.append(f"| anonymous memory, 100,000 records against 1,000 | {grown:+.1f} MiB | the same |")
    faults = results("data_faults")
    ten, kills = faults["ten_changed"], sum(faults["campaign"]["kills"].values())
    failed = f"; {len(faults['failures'])} failures" if faults["failures"] else ""
    lines.append(
        f"| {kills} kills of two processes encoding {faults['pictures']:,} pictures, then the undisturbed run's bytes "
        f"| {'yes' if not faults['failures'] else 'no'}{failed} | [`chaos_encode.py`](docs/results/data_faults.json) |"
    )
    lines.append(f"| ten of them changed | {ten['encoded']} encoded, a fresh cache's bytes | the same |")
    lines.append(f"| nothing changed | 0 encoded, {ten['unchanged_s']:.1f} s | the same |")
    return "\n".join(lines)


def exactness() -> str:
    """What scripts/exactness.py measured."""
    found = results("exactness")
    lines = ["| the same run | float32: losses, weights | float64: losses, weights |", "|---|---|---|"]
    for case, values in found["32-true"].items():
        like = "" if values["like"] == "one process" else f" (beside {values['like']})"
        shown = [
            "bit for bit" if one["bitwise"] else f"{one['loss']:.0e}, {max(one['weights'], one['averages']):.0e}"
            for one in (values, found["64-true"][case])
        ]
        lines.append(f"| {case}{like} | {' | '.join(shown)} |")
    return "\n".join(lines)


def costs() -> str:
    """What scripts/chaos_train.py and scripts/benchmark_train.py measured."""
    lines = ["| what | measured | by |", "|---|---|---|"]
    for name, who in (("chaos_train", "one process"), ("chaos_train_ddp", "two processes")):
        found = results(name)
        equal = "yes" if not found["failures"] and all(found["equal"].values()) else "no"
        lines.append(
            f"| {sum(found['kills'].values())} kills of {who} over {found['steps']} steps, then weights, averages, "
            f"optimizer, metrics and pictures of an undisturbed run, bit for bit | {equal} "
            f"| [`chaos_train.py`](docs/results/{name}.json) |"
        )
    overhead, start, ranks = (results(f"train_{mode}") for mode in ("overhead", "start", "ranks"))
    for threads in (1, 2):
        share = percent(overhead[f"{threads} threads"], "overhead")
        lines.append(
            f"| the Trainer's time above a bare loop of the quick start's step, threads={threads} "
            f"| {share} | [`benchmark_train.py overhead`](docs/results/train_overhead.json) |"
        )
    lines.append(
        f"| from the command to the first optimizer step; `--help`; `train --help` | {start['first_step_s']:.1f} s; "
        f"{start['help_s']:.2f} s; {start['train_help_s']:.2f} s "
        "| [`benchmark_train.py start`](docs/results/train_start.json) |"
    )
    lines.append(
        "| two ranks of one thread, as a share of what the same two reach without exchanging anything "
        f"| {percent(ranks, 'share_of_apart')} | [`benchmark_train.py ranks`](docs/results/train_ranks.json) |"
    )
    lines.append(
        f"| the same two ranks beside one of one thread | {ranks['two_by_one']:.2f}x; without exchange "
        f"{ranks['apart_by_one']:.2f}x | the same |"
    )
    return "\n".join(lines)


def percent(values: dict[str, float], name: str) -> str:
    quartiles = (f"{values[f'{name}_quartile_{number}']:.1%}" for number in (1, 3))
    return f"{values[name]:.1%} ({' to '.join(quartiles)})"


def speed() -> str:
    lines = ["| case | step, ours and theirs | step | forward and backward alone | peak memory |", "|---|---|---|---|---|"]
    measured = figures("step")
    for case, values in measured.items():
        if "ours_peak_bytes" in values:
            alone = measured[f"{case}, forward and backward"]
            memory = " and ".join(f"{values[f'{who}_peak_bytes'] / 2**20:.0f}" for who in ("ours", "theirs"))
            times = f"{values['ours_s']:.3f} s and {values['theirs_s']:.3f} s"
            lines.append(f"| {case} | {times} | **{ratio(values)}** | {ratio(alone)} | {memory} MiB |")
    return "\n".join(lines)


def sampling() -> str:
    lines = ["| case | ours and theirs | ratio |", "|---|---|---|"]
    for case, values in figures("sampling").items():
        lines.append(f"| {case} | {values['ours_s']:.2f} s and {values['theirs_s']:.2f} s | **{ratio(values)}** |")
    return "\n".join(lines)


def preset() -> str:
    [(name, values)], losses = figures("preset").items(), figures("loss")
    ours, theirs = (losses[key] for key in losses)
    lines = ["| | network=" + name + " | diffusers' default layout |", "|---|---|---|"]
    lines.append(f"| parameters | {values['our_parameters']:,} | {values['their_parameters']:,} |")
    lines.append(f"| step | {values['ours_s']:.3f} s: **{ratio(values)}** | {values['theirs_s']:.3f} s |")
    for step in ours:
        lines.append(f"| validation loss after {step} steps | {ours[step]:.3f} | {theirs[step]:.3f} |")
    return "\n".join(lines)


def full() -> str:
    lines = ["| | ours | theirs | ratio |", "|---|---|---|---|"]
    for case, values in figures("full").items():
        shown = [
            f"{values[f'{who}_step_s']:.1f} s, {values[f'{who}_peak_bytes'] / 2**30:.1f} GiB" for who in ("ours", "theirs")
        ]
        lines.append(f"| {case} | {' | '.join(shown)} | **{values['ratio']:.2f}x** |")
    return "\n".join(lines)


def ranking() -> str:
    """What scripts/rank_noised.py measured."""
    found = results("ranking")
    lines = [
        f"| | {' | '.join(str(grade) for grade in found['grades'])} | ranked |",
        f"|---|{'---|' * len(found['grades'])}---|",
    ]
    for name, measure in found["measures"].items():
        values = " | ".join(f"{value:.3f}" for value in measure["values"])
        lines.append(f"| `{name}` | {values} | {'yes' if measure['ranked'] else 'no'} |")
    return "\n".join(lines)


def watching() -> str:
    """What the quick start's run logged of its own time, in its last line of timing.jsonl."""
    found = results("quickstart_time")
    shares = [found[f"share_{what}"] for what in ("validation", "pictures", "metrics")]
    parts, source = [f"{share:.1%}" for share in shares], "[its log](docs/results/quickstart_time.json)"
    listed = f"{parts[0]} into validation, {parts[1]} into pictures, {parts[2]} into metrics"
    return (
        f"Of the time of the quick start's training {sum(shares):.1%} goes into watching: {listed} ({source}; "
        "`python scripts/benchmark_train.py watching` measures it for any run)."
    )


def finetune() -> str:
    """What scripts/finetune_learning.py measured."""
    lines = [
        "| new drawing | before | LoRA | on backgrounds not trained on | the hundred "
        "| all weights | on backgrounds not trained on | the hundred |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for glyph, models in results("finetune")["glyphs"].items():
        columns = [("base", "glyph"), *((way, part) for way in ("lora", "full") for part in ("glyph", "new", "others"))]
        shown = " | ".join(f"{models[way][part]['retrieval_at_1']:.3f}" for way, part in columns)
        lines.append(f"| {unicodedata.name(chr(int(glyph, 16))).lower()} | {shown} |")
    return "\n".join(lines)


SECTIONS = {
    "data": data,
    "caches": caches,
    "ranking": ranking,
    "watching": watching,
    "finetune": finetune,
    "exactness": exactness,
    "costs": costs,
    "options": options,
    "speed": speed,
    "sampling": sampling,
    "preset": preset,
    "full": full,
}


def renewed(readme: str) -> str:
    """A README with its tables as they should be."""
    for name, section in SECTIONS.items():
        start, end = f"<!-- {name}: made by scripts/renew_readme.py -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = readme.partition(start)
        assert found, f"the README has no {start}"
        readme = before + start + "\n" + section() + "\n\n" + end + rest.partition(end)[2]
    return readme


def schedules() -> dict[str, NoiseSchedule]:
    """Every schedule that needs no further setting, and the zero-terminal-SNR form of the default."""
    options = {name: shipped_part("schedule", name) for name in groups()["schedule"]}
    found = {name: build(part, "schedule") for name, part in options.items() if MISSING not in part.arguments.values()}
    terminal = options["scaled_linear"].with_values(zero_terminal_snr=True)
    return found | {"scaled_linear, zero_terminal_snr": build(terminal, "schedule")}


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
