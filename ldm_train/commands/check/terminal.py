"""A check's report for a terminal."""

from collections.abc import Iterator

from ldm_train.commands.check.dataset_facts import PictureFacts
from ldm_train.commands.check.estimate import Training
from ldm_train.commands.check.existing_cache import Compared
from ldm_train.commands.check.findings import Report, amount, duration
from ldm_train.commands.check.forecast import RunFiles
from ldm_train.data.sources.items import format_name

LISTED = 100


def lines(report: Report) -> Iterator[str]:
    """What is wrong comes last, where it is seen."""
    yield from report.notes
    yield from of_pictures(report.pictures)
    if report.captions is not None:
        facts = report.captions
        yield (
            f"{facts.distinct:,} distinct captions; tokens of the longest: {facts.longest:,} ({facts.capacity} are kept); "
            f"pictures with several: {facts.several:,}"
        )
    if report.latents is not None:
        latents = report.latents
        yield (
            f"latents ({latents.pictures} tried, pictures from {latents.low:.2f} to {latents.high:.2f}): deviation "
            f"{latents.deviation:.2f} after scaling, decoded at {latents.psnr:.1f} dB"
        )
    yield from of_cost(report)
    for cache in report.caches:
        yield of_cache(cache, report.pictures.usable)
    for warning in report.warnings:
        yield f"warning: {warning}"
    for reason in report.reasons:
        yield f"wrong: {reason}"
    yield f"{len(report.reasons)} to mend before training" if report.reasons else "nothing here keeps from training"


def of_pictures(facts: PictureFacts) -> Iterator[str]:
    for key, problem in list(facts.unusable.items())[:LISTED]:
        yield f"{format_name(key)}: {format_name(problem)}"
    if len(facts.unusable) > LISTED:
        yield f"… and {len(facts.unusable) - LISTED:,} more, which out=DIR lists in check.json"
    cannot = len(facts.unusable)
    yield f"{facts.items:,} pictures: {facts.usable:,} can be used ({facts.held_out:,} held out), {cannot:,} cannot"
    for bucket, (count, share) in facts.buckets.items():
        yield f"  {bucket}: {count:,} pictures, of which the crop cuts away {share:.1%}"


def of_cost(report: Report) -> Iterator[str]:
    if report.disk is not None:
        disk = report.disk
        yield (
            f"the cache takes {amount(disk.cache.total)} ({amount(disk.cache.while_encoding)} while encoding) of "
            f"{amount(disk.free)} free in {disk.folder}"
            + ("" if report.encoding_seconds is None else f", and {duration(report.encoding_seconds)} here")
        )
    if report.prior is not None:
        yield (
            f"{report.prior.count:,} class pictures are drawn first, by {report.prior.passes:,} passes of the network each"
            + ("" if report.prior_seconds is None else f", in about {duration(report.prior_seconds)} here")
        )
    if report.training is not None:
        yield of_training(report.training)
        if report.training_seconds is not None and report.training.seconds is not None:
            yield (
                f"a step takes {report.training.seconds:.3g} s here ({report.training.device}), all of them "
                f"{duration(report.training_seconds)}, without validation and the pictures drawn meanwhile"
            )
    if report.files is not None:
        yield of_files(report.files)
    if report.price is not None:
        yield f"price of all that: {report.price:,.2f}"


def of_training(training: Training) -> str:
    memory, activations = training.memory, training.activations
    batch = "" if activations is None else f" and {amount(activations)} for a forward pass of {training.rows}"
    return (
        f"training {training.trained / 1e6:,.1f}M of {training.parameters / 1e6:,.1f}M parameters takes "
        f"{amount(memory.total + training.autoencoder)} of memory{batch}"
    )


def of_files(files: RunFiles) -> str:
    parts = [f"{files.checkpoints:,} checkpoint{'s' * (files.checkpoints > 1)} of {amount(files.checkpoint)}"]
    if files.snapshots:
        parts.append(f"{files.snapshots:,} snapshot{'s' * (files.snapshots > 1)} of averages of {amount(files.snapshot)}")
    if files.prior:
        parts.append(f"{amount(files.prior)} of class pictures")
    return (
        f"the run keeps {', '.join(parts)}, {amount(files.at_most)} at most, of {amount(files.free)} free in {files.folder}"
    )


def of_cache(cache: Compared, usable: int) -> str:
    if not cache.there:
        return f"{cache.folder} is not there yet: `ldm-train encode` makes it"
    return (
        f"{cache.folder} holds {cache.holds:,} of these {usable:,} pictures; encoding would add {cache.new_pictures:,} "
        f"pictures and {cache.new_captions:,} captions, and drop {len(cache.dropped):,} pictures"
    )
