"""Tables of exactness, kills, faults and overhead of training."""

from manual.measured import format_quartiles, link_result, look_up, make_table, number


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
                f"{total:.0f} kills of {who} over {number(name, 'steps'):.0f} steps: weights, averages, optimizer, metrics "
                "and pictures bit for bit as in an undisturbed run",
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
    words = {
        "first_step": "its first optimizer step",
        "sample": "a picture",
        "help": "`--help`",
        "train_help": "`train --help`",
    }
    start = {words[name]: number("train_start", f"{name}_cpu_s") for name in words}
    rows += [
        [
            f"CPU time of one thread from the command to {'; to '.join(start)}",
            "; ".join(f"{seconds:.2f} s" for seconds in start.values()),
            link_result("train_start", "benchmark_train.py start"),
        ],
        [
            "speed of two processes with one thread each, as a share of two that exchange nothing",
            format_quartiles("train_ranks", "share_of_apart"),
            link_result("train_ranks", "benchmark_train.py ranks"),
        ],
        [
            "the same if all rows of the token embedding's gradient were exchanged, not only those that a batch touched",
            format_quartiles("train_ranks", "share_of_apart_all_rows"),
            "the same",
        ],
    ]
    return make_table(["what", "measured", "by"], rows)


def faults() -> str:
    """Faults at file operations.

    Kills, power cuts, full disks and I/O errors at operations on files, and two commands at once. "Possible" counts the
    faults that could be tried, "tried" those that were, by `scripts/fault_campaign.py`, in parts. A failure is a fault that
    left something wrong behind.
    """
    rows = []
    for section in ("commands", "pairs"):
        names = look_up("file_faults", section)
        assert isinstance(names, dict)
        for name in names:
            cells = [f"{number('file_faults', section, name, key):.0f}" for key in ("possible_faults", "faults", "failures")]
            rows.append([name, *cells])
    return make_table(["command", "possible", "tried", "failures"], [row for row in rows if row[2] != "0"])


def optimizers() -> str:
    """Training: optimizers on the same small task.

    A network of 16 and 32 channels on the quick start's data, the same steps and seeds; each optimizer at the best of the
    rates that were tried, Prodigy at the one that it finds. Measured by
    `python scripts/benchmark_optimizers.py`.
    """
    figures = look_up("optimizers", "optimizers")
    assert isinstance(figures, dict)
    rows = []
    for name in sorted(figures, key=lambda name: number("optimizers", "optimizers", name, "validation_loss")):
        rate, loss, seconds, kept = (
            number("optimizers", "optimizers", name, key)
            for key in ("lr", "validation_loss", "step_s", "numbers_per_weight")
        )
        rows.append([f"`{name}`", f"{rate:g}", f"{loss:.4f}", f"{1000 * seconds:.0f} ms", f"{kept:.2f}"])
    steps = number("optimizers", "steps")
    header = ["optimizer", "`optimizer.lr`", f"held-out loss after {steps:.0f} steps", "processor time of a step"]
    return make_table([*header, "numbers kept for each weight"], rows)
