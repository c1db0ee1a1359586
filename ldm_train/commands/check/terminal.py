"""Format a check's report for a terminal."""

from collections.abc import Iterator

from ldm_train.commands.check.dataset_facts import PictureFacts
from ldm_train.commands.check.estimate import StepEstimate
from ldm_train.commands.check.existing_cache import CacheComparison
from ldm_train.commands.check.findings import Report, count_problems, format_bytes
from ldm_train.commands.check.forecast import RunFiles
from ldm_train.data.scan.source_review import group_problems
from ldm_train.util.text import format_duration

LISTED = 100


def format_report(report: Report) -> Iterator[str]:
    """Yield the lines of a report; the problems come last, where they are seen."""
    yield from report.notes
    yield from format_pictures(report.pictures)
    if report.captions is not None:
        facts = report.captions
        yield (
            f"{facts.distinct:,} distinct caption{'s' * (facts.distinct != 1)}; the longest has {facts.longest:,} tokens "
            f"({facts.capacity} are kept); "
            f"{facts.several:,} picture{' has' if facts.several == 1 else 's have'} several captions"
        )
    if report.latents is not None:
        latents = report.latents
        yield (
            f"latents of {latents.pictures} pictures (pixel values from {latents.low:.2f} to {latents.high:.2f}): "
            f"RMS {latents.deviation:.2f} after scaling; decoded with a PSNR of {latents.psnr:.1f} dB"
        )
    yield from format_cost(report)
    for cache in report.caches:
        yield format_cache(cache, report.pictures.usable)
    for warning in report.warnings:
        yield f"warning: {warning}"
    if not report.reasons:
        yield "No problems found: ready to train."
        return
    yield f"{count_problems(len(report.reasons))} to fix before training:"
    for reason in report.reasons:
        yield f"- {reason}"


def format_pictures(facts: PictureFacts) -> Iterator[str]:
    lines = list(group_problems({**facts.unusable, **facts.rows}))
    yield from lines[:LISTED]
    if len(lines) < len(facts.unusable) + len(facts.rows):
        yield "add out=DIR for a list of all problems"
    elif len(lines) > LISTED:
        yield f"… and {len(lines) - LISTED:,} more; add out=DIR for a list of all problems"
    cannot = len(facts.unusable)
    yield f"{facts.items:,} pictures: {facts.usable:,} can be used ({facts.held_out:,} held out), {cannot:,} cannot"
    if facts.rows:
        yield f"{len(facts.rows):,} rows or files are about no picture that can be used"
    for bucket, (count, share) in facts.buckets.items():
        yield f"  {bucket}: {count:,} pictures; the crop cuts away {share:.1%} of their area"


def format_cost(report: Report) -> Iterator[str]:
    if report.disk is not None:
        disk = report.disk
        yield (
            f"the cache takes {format_bytes(disk.cache.total)} ({format_bytes(disk.cache.while_encoding)} while encoding) "
            f"of {format_bytes(disk.free)} free in {disk.folder}"
            + (
                ""
                if report.encoding_seconds is None
                else f"; encoding takes {format_duration(report.encoding_seconds)} here"
            )
        )
    if report.encoding_memory is not None:
        memory = report.encoding_memory
        gpu = f", and {format_bytes(memory.activations)} of the GPU" if memory.on_gpu else ""
        yield f"encoding takes about {format_bytes(memory.machine)} of memory at its peak{gpu}, besides the models"
    if report.prior is not None:
        yield (
            f"{report.prior.count:,} class pictures are drawn first, with {report.prior.passes:,} passes of the network each"
            + ("" if report.prior_seconds is None else f", in about {format_duration(report.prior_seconds)} here")
        )
    if report.training is not None:
        yield format_training(report.training)
        if report.training_seconds is not None and report.training.seconds is not None:
            yield (
                f"a step takes {report.training.seconds:.3g} s here ({report.training.device}), all steps take "
                f"{format_duration(report.training_seconds)}, without validation and the pictures drawn during training"
            )
    if report.learning is not None:
        yield from report.learning.describe()
    if report.files is not None:
        yield format_run_files(report.files)
    if report.price is not None:
        yield f"price of encoding and training: {report.price:,.2f}"


def format_training(training: StepEstimate) -> str:
    memory, activations = training.memory, training.activations
    batch = "" if activations is None else f" and {format_bytes(activations)} for a forward pass of {training.rows} examples"
    return (
        f"training {training.trained / 1e6:,.1f}M of {training.parameters / 1e6:,.1f}M parameters takes "
        f"{format_bytes(memory.total + training.autoencoder)} of memory{batch}; "
        "validation needs no more memory unless validation.batch_size is larger"
    )


def format_run_files(files: RunFiles) -> str:
    parts = [f"{files.checkpoints:,} checkpoint{'s' * (files.checkpoints > 1)} of {format_bytes(files.checkpoint)}"]
    if files.snapshots:
        each = format_bytes(files.snapshot)
        parts.append(f"{files.snapshots:,} snapshot{'s' * (files.snapshots > 1)} of averaged weights of {each}")
    if files.prior:
        parts.append(f"{format_bytes(files.prior)} of class pictures")
    most, free = format_bytes(files.at_most), format_bytes(files.free)
    return f"the run keeps {', '.join(parts)}: {most} at most, of {free} free in {files.folder}"


def format_cache(cache: CacheComparison, usable: int) -> str:
    if not cache.there:
        return f"{cache.folder} does not exist yet: `ldm-train encode` creates it"
    return (
        f"{cache.folder} holds {cache.holds:,} of these {usable:,} pictures; encoding would add {cache.new_pictures:,} "
        f"pictures and {cache.new_captions:,} captions, and drop {len(cache.dropped):,} pictures"
    )
