"""Tables of what scripts/benchmark_step.py measured, compared with diffusers, as Markdown."""

from manual.measured import FOLDER, format_quartiles, look_up, make_table, number


def list_cases(name: str) -> list[str]:
    """Return the measured cases of docs/results/benchmark_NAME.json."""
    cases = look_up(f"benchmark_{name}")
    assert isinstance(cases, dict)
    return [case for case, values in cases.items() if isinstance(values, dict)]


def format_pair(name: str, case: str, key: str, unit: str, *, divisor: float = 1, digits: int = 2) -> str:
    ours, theirs = (
        f"{number(f'benchmark_{name}', case, f'{who}_{key}') / divisor:.{digits}f}" for who in ("ours", "theirs")
    )
    return f"{ours} and {theirs} {unit}"


def format_ratio(name: str, case: str) -> str:
    return format_quartiles(f"benchmark_{name}", case, "ratio", share=False)


def list_kinds(name: str) -> list[tuple[str, str]]:
    """Return the kinds of CPU that a benchmark ran on, each with the name of its results."""
    found = [result for result in (name, f"{name}_avx512") if (FOLDER / f"benchmark_{result}.json").is_file()]
    return [(describe_kind(f"benchmark_{result}"), result) for result in found]


def describe_kind(result: str) -> str:
    """Return the kind of CPU that a result was measured on, with the number of threads."""
    cpu, threads = str(look_up(result, "cpu")), number(result, "threads")
    return f"{cpu.removeprefix('cpu with ')}, {threads:.0f} thread{'s' * (threads != 1)}"


def step() -> str:
    """Speed of a training step compared with diffusers.

    The step of diffusers' `train_text_to_image.py` with the same architecture and weights, in float32: forward, backward,
    clipping, optimizer, EMA. 64/128/256 channels, two blocks a level, text of 77x256. Measured by
    `python scripts/benchmark_step.py step`, on two kinds of CPU. The reasons for the difference: oneDNN multiplies matrices
    where PyTorch would call MKL, attention of narrow heads has routines of its own, the optimizer's kernel is fused, and EMA
    is one operation for all weights. With AVX-512 both reach three quarters or more of the CPU's rate in their matrix
    products and convolutions, so there is less to gain. Other programs took half of that machine meanwhile.
    The figures of AVX2 are from before attention was computed in blocks.
    """
    rows = [
        [
            kind,
            case,
            format_pair(result, case, "s", "s", digits=3),
            f"**{format_ratio(result, case)}**",
            format_ratio(result, f"{case}, forward and backward"),
            format_pair(result, case, "peak_bytes", "MiB", divisor=2**20, digits=0),
        ]
        for kind, result in list_kinds("step")
        for case in list_cases(result)
        if not case.endswith("forward and backward")
    ]
    header = ["CPU", "case", "ldm-train and diffusers", "ratio", "ratio of forward and backward only", "peak memory"]
    return make_table(header, rows)


def sampling() -> str:
    """Speed of guided sampling compared with diffusers.

    10 DDIM steps. Measured by `python scripts/benchmark_step.py sampling`, before keys and values of the text were kept.
    """
    rows = [
        [kind, case, format_pair(result, case, "s", "s"), f"**{format_ratio(result, case)}**"]
        for kind, result in list_kinds("sampling")
        for case in list_cases(result)
    ]
    return make_table(["CPU", "case", "ldm-train and diffusers", "ratio"], rows)


def bfloat16() -> str:
    """Speed of training in bf16-mixed on a CPU with AVX512-BF16.

    One thread, compared with `32-true`, in seconds of the CPU. Measured by `python scripts/benchmark_step.py bfloat16`;
    other programs ran meanwhile. The step of an autoencoder is that of `train_autoencoder`.
    """
    rows = [
        [case, *(f"{number('benchmark_bfloat16', case, f'{who}_s'):.3f} s" for who in ("ours", "theirs")), ratio]
        for case in list_cases("bfloat16")
        for ratio in [f"**{format_ratio('bfloat16', case)}**"]
    ]
    return make_table(["step of", "`bf16-mixed`", "`32-true`", "ratio"], rows)


def preset() -> str:
    """The preset unet_compact compared with diffusers' default layout.

    `network=unet_compact` (heads of size 64) and diffusers' default layout of the same size (32/64/128 channels, 8 heads a
    level), on the quick start's latents. Measured by `python scripts/benchmark_step.py preset` and `loss`.
    """
    [name] = list_cases("preset")
    ours, theirs = list_cases("loss")
    steps = look_up("benchmark_loss", ours)
    assert isinstance(steps, dict)
    values = {
        key: number("benchmark_preset", name, key) for key in ("our_parameters", "their_parameters", "ours_s", "theirs_s")
    }
    rows = [
        ["parameters", f"{values['our_parameters']:,.0f}", f"{values['their_parameters']:,.0f}"],
        ["training step", f"{values['ours_s']:.3f} s: **{format_ratio('preset', name)}**", f"{values['theirs_s']:.3f} s"],
    ]
    for number_of_steps in steps:
        losses = [f"{number('benchmark_loss', who, number_of_steps):.3f}" for who in (ours, theirs)]
        rows.append([f"validation loss after {number_of_steps} steps", *losses])
    return make_table(["", f"network={name}", "diffusers' default layout"], rows)


def full() -> str:
    """Speed at Stable Diffusion 1.5's size.

    Batch 1, without EMA. Measured by `python scripts/benchmark_step.py full`.
    """
    rows = []
    for case in list_cases("full"):
        cells = [
            f"{number('benchmark_full', case, f'{who}_step_s'):.1f} s, "
            f"{number('benchmark_full', case, f'{who}_peak_bytes') / 2**30:.1f} GiB"
            for who in ("ours", "theirs")
        ]
        rows.append([case, *cells, f"**{number('benchmark_full', case, 'ratio'):.2f}x**"])
    return make_table(["", "ldm-train", "diffusers", "ratio"], rows)
