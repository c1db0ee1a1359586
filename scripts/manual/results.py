"""Tables of measured figures, as Markdown, from the JSON files in docs/results; links are relative to docs/."""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ldm_train.util.safe_json import Json

FOLDER = Path(__file__).parent.parent.parent / "docs" / "results"
Row = Sequence[str]


def read_result(name: str) -> dict[str, Json]:
    """Return the content of docs/results/NAME.json."""
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def look_up(name: str, *keys: str | int) -> Json:
    """Return one value of a result, by the keys that lead to it."""
    value: Json = read_result(name)
    for key in keys:
        value = value[key]  # type: ignore[index, call-overload]
    return value


def number(name: str, *keys: str | int) -> float:
    """Return one number of a result."""
    value = look_up(name, *keys)
    assert isinstance(value, int | float), (name, keys, value)
    return value


def make_table(header: Row, rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def link_result(name: str, text: str) -> str:
    return f"[`{text}`](results/{name}.json)"


def format_quartiles(name: str, *keys: str, share: bool = True) -> str:
    """Return a median with its quartiles, as percentages or as factors; the keys end in the median's own."""
    *parents, key = keys
    form = "{:.1%}" if share else "{:.2f}x"
    median, low, high = (form.format(number(name, *parents, f"{key}{end}")) for end in ("", "_quartile_1", "_quartile_3"))
    return f"{median} ({low.removesuffix('x')} to {high.removesuffix('x')})"


QUICKSTART = {
    "retrieval_at_1": (3, "share of pictures for which the nearest of all 100 drawings is the one in the caption"),
    "background_accuracy": (3, "share of pictures with corners in the colour of the caption"),
    "drawing_psnr": (1, "PSNR to the true drawing, dB"),
    "autoencoder_psnr": (1, "PSNR that the autoencoder alone reaches, dB: the upper limit"),
}


def quickstart() -> str:
    """The quick start's model on held-out pictures.

    80 (drawing, background) pairs that no stage of the training saw, three pictures each, 20 DDIM steps.
    """
    rows = [
        [f"`{key}`", meaning, *(f"{number(name, key):.{digits}f}" for name in ("quickstart", "quickstart_noise"))]
        for key, (digits, meaning) in QUICKSTART.items()
    ]
    return make_table(["metric", "meaning", "velocity prediction", "noise prediction"], rows)


def caches() -> str:
    """The latent cache.

    Shares above 100 % are the noise of CPU times on this machine.
    """
    rows = []
    for name, mode, what in (
        ("data_encode", "encode", "the quick start's autoencoder"),
        ("data_encode_large", "large", "an autoencoder of Stable Diffusion's size"),
    ):
        count = f"{number(name, 'pictures'):,.0f}"
        shares = [number(name, "shares", place) for place in range(int(number(name, "rounds")))]
        rows.append(
            [
                f"CPU time of only decoding and {what}, as a share of the CPU time of encoding {count} pictures (512x512 to 256x256)",
                f"{number(name, 'share'):.1%} ({min(shares):.1%} to {max(shares):.1%})",
                link_result(name, f"benchmark_data.py {mode}"),
            ]
        )
    many = ("data_read", "100000 records")
    grown = (number(*many, "warm", "after_bytes") - number("data_read", "1000 records", "warm", "after_bytes")) / 2**20
    rows += [
        [
            "reading shuffled batches of 64 (latents 4x32x32, embeddings 77x768) of 100,000 examples (13.5 GB) in the page cache, one process",
            f"{number(*many, 'warm', 'samples_per_s'):,.0f} examples/s",
            link_result("data_read", "benchmark_data.py read"),
        ],
        ["the same, read from the disk for the first time", f"{number(*many, 'cold', 'samples_per_s'):,.0f} examples/s", "the same"],
        ["anonymous memory: 100,000 examples compared with 1,000", f"{grown:+.1f} MiB", "the same"],
    ]
    faults = read_result("data_faults")
    kills, failures = look_up("data_faults", "campaign", "kills"), faults["failures"]
    assert isinstance(kills, dict)
    assert isinstance(failures, list)
    total = sum(number("data_faults", "campaign", "kills", kind) for kind in kills)
    pictures = f"{number('data_faults', 'pictures'):,.0f}"
    rows += [
        [
            f"{total:.0f} kills of two processes that encode {pictures} pictures: same bytes as without kills",
            f"no: {len(failures)} failures" if failures else "yes",
            link_result("data_faults", "chaos_encode.py"),
        ],
        [
            "encoding again after ten pictures changed",
            f"{number('data_faults', 'ten_changed', 'encoded'):.0f} encoded, same bytes as a new cache",
            "the same",
        ],
        [
            "encoding again after no change",
            f"0 encoded, {number('data_faults', 'ten_changed', 'unchanged_s'):.1f} s",
            "the same",
        ],
    ]
    return make_table(["what", "measured", "by"], rows)


def exactness() -> str:
    """The same run on other devices and after interruptions.

    The largest relative difference of any step's loss over 100 steps, and of the weights and averages (L2). Measured by
    `python scripts/exactness.py`.
    """
    rows = []
    cases = look_up("exactness", "32-true")
    assert isinstance(cases, dict)
    for case in cases:
        reference = look_up("exactness", "32-true", case, "like")
        cells = []
        for precision in ("32-true", "64-true"):
            loss, weights, averages = (number("exactness", precision, case, key) for key in ("loss", "weights", "averages"))
            equal = look_up("exactness", precision, case, "bitwise")
            cells.append("bit for bit" if equal else f"{loss:.0e}, {max(weights, averages):.0e}")
        rows.append([case.partition(" (beside")[0], str(reference), *cells])
    return make_table(["run", "compared with", "float32: losses, weights", "float64: losses, weights"], rows)


def costs() -> str:
    """Training: kills, overhead, start, two processes.

    The bare loop clips gradients in a pass of its own, the trainer in the optimizer's. The two processes share two cores,
    so the time that they take to sum gradients is lost to the step.
    """
    rows = []
    for name, who in (("chaos_train", "one process"), ("chaos_train_ddp", "two processes")):
        kills, equal = look_up(name, "kills"), look_up(name, "equal")
        assert isinstance(kills, dict)
        assert isinstance(equal, dict)
        total = sum(number(name, "kills", kind) for kind in kills)
        same = not look_up(name, "failures") and all(equal.values())
        rows.append(
            [
                f"{total:.0f} kills of {who} over {number(name, 'steps'):.0f} steps: weights, averages, optimizer, metrics and "
                "pictures bit for bit as in an undisturbed run",
                "yes" if same else "no",
                link_result(name, "chaos_train.py"),
            ]
        )
    for threads in (1, 2):
        rows.append(
            [
                f"time that the trainer adds to a bare loop of the quick start's step, threads={threads}",
                format_quartiles("train_overhead", f"{threads} threads", "overhead"),
                link_result("train_overhead", "benchmark_train.py overhead"),
            ]
        )
    start = [number("train_start", key) for key in ("first_step_s", "help_s", "train_help_s")]
    rows += [
        [
            "time from the command to the first optimizer step; of `--help`; of `train --help`",
            f"{start[0]:.1f} s; {start[1]:.2f} s; {start[2]:.2f} s",
            link_result("train_start", "benchmark_train.py start"),
        ],
        [
            "speed of two processes with one thread each, as a share of two that exchange nothing",
            format_quartiles("train_ranks", "share_of_apart"),
            link_result("train_ranks", "benchmark_train.py ranks"),
        ],
        [
            "speed of the same two processes compared with one process of one thread",
            f"{number('train_ranks', 'two_by_one'):.2f}x; without exchange {number('train_ranks', 'apart_by_one'):.2f}x",
            "the same",
        ],
    ]
    return make_table(["what", "measured", "by"], rows)


def faults() -> str:
    """Faults at file operations.

    Kills, power cuts, full disks and I/O errors at operations on files, and two commands at once. A failure is a run that left
    something wrong behind. "Possible" counts the operations at which a fault of each kind could be tried.
    """
    rows = []
    for section in ("commands", "pairs"):
        names = look_up("file_faults", section)
        assert isinstance(names, dict)
        for name in names:
            cells = [f"{number('file_faults', section, name, key):.0f}" for key in ("possible_faults", "faults", "failures")]
            rows.append([name, *cells])
    return make_table(["command", "possible", "tried", "failures"], [row for row in rows if row[2] != "0"])


def finetune() -> str:
    """Fine-tuning the quick start's model on a new drawing.

    How often a picture is nearest to the drawing of its caption, among 101 drawings (by chance 0.01), before and after 200 steps:
    for the new drawing, for the new drawing on backgrounds that were not trained on, and for the hundred drawings that the model
    knew, for which it was 1.000 before. Measured by `python scripts/finetune_learning.py`.
    """
    glyphs = look_up("finetune", "glyphs")
    assert isinstance(glyphs, dict)
    columns = [("base", "glyph"), *((way, part) for way in ("lora", "full") for part in ("glyph", "new", "others"))]
    rows = [
        [
            unicodedata.name(chr(int(glyph, 16))).lower(),
            *(f"{number('finetune', 'glyphs', glyph, way, part, 'retrieval_at_1'):.3f}" for way, part in columns),
        ]
        for glyph in glyphs
    ]
    parts = ["new drawing", "on new backgrounds", "the hundred"]
    header = ["drawing", "before", *(f"{way}: {part}" for way in ("LoRA", "all weights") for part in parts)]
    return make_table(header, rows)


def ranking() -> str:
    """Whether the metrics rank a model that was made worse on purpose.

    Noise was added to the weights of the quick start's model, in these shares of each tensor's deviation. 0 is the model as it is.
    Measured by `python scripts/rank_noised.py outputs/quickstart`.
    """
    grades, measures = look_up("ranking", "grades"), look_up("ranking", "measures")
    assert isinstance(grades, list)
    assert isinstance(measures, dict)
    rows = [
        [
            f"`{name}`",
            *(f"{number('ranking', 'measures', name, 'values', place):.3f}" for place in range(len(grades))),
            "yes" if look_up("ranking", "measures", name, "ranked") else "no",
        ]
        for name in measures
    ]
    return make_table(["metric", *map(str, grades), "in the right order"], rows)
