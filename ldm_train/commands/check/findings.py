"""What a check found, what of it is wrong, and what only worth a word; as JSON, with the same keys every time."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import ceil

from ldm_train.commands.check.dataset_facts import TINY, CaptionFacts, PictureFacts
from ldm_train.commands.check.estimate import Disk, Training
from ldm_train.commands.check.existing_cache import Compared
from ldm_train.commands.check.forecast import ClassPictures, RunFiles
from ldm_train.commands.check.reconstruction import Latents, findings
from ldm_train.data.sources.items import format_name
from ldm_train.util.safe_json import Json

SOME = 3
COMMON = 0.5  # of the pictures; one caption for more is hardly meant
HELD_BYTES = 0.95  # of a device's memory that can be had


@dataclass
class Report:
    """All of it. `reasons` are why training would go wrong; `warnings` are for people to weigh.

    Args:
        notes: what the source detected.
        seconds: of encoding all, of drawing class pictures, and of training to the last step.
        price: of them all, if a price of the hour is known.
        free_memory: of the device that a step was measured on, bytes.
    """

    pictures: PictureFacts
    notes: list[str] = field(default_factory=list)
    captions: CaptionFacts | None = None
    latents: Latents | None = None
    disk: Disk | None = None
    prior: ClassPictures | None = None
    training: Training | None = None
    files: RunFiles | None = None
    caches: list[Compared] = field(default_factory=list)
    encoding_seconds: float | None = None
    prior_seconds: float | None = None
    training_seconds: float | None = None
    price: float | None = None
    free_memory: int | None = None
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Json]:
        """As JSON; what differs from one time to the next, or from machine to machine, under "measured"."""
        values = asdict(self)
        measured: dict[str, Json] = {name: values.pop(name) for name in MEASURED}
        if self.disk is not None:
            measured["free_disk"] = values["disk"].pop("free")
            values["disk"]["total"], values["disk"]["while_encoding"] = self.disk.cache.total, self.disk.cache.while_encoding
        if self.files is not None:
            measured["free_disk_of_run"] = values["files"].pop("free")
            values["files"]["total"], values["files"]["at_most"] = self.files.total, self.files.at_most
        if self.training is not None:
            measured["step"] = values["training"].pop("tried")
            measured["device"] = values["training"].pop("device")
            measured["activations"], measured["step_seconds"] = self.training.activations, self.training.seconds
        return {"ok": not self.reasons, **values, "measured": measured}


MEASURED = ("encoding_seconds", "prior_seconds", "training_seconds", "price", "free_memory")


def judge(report: Report, *, strict: bool, scale_check: bool, chunk: int | None) -> None:
    """Add the reasons and warnings that follow from what was found.

    Args:
        strict: whether a picture that cannot be used is wrong.
        scale_check: whether latents can be.
        chunk: tokens of one chunk of the text encoder, if it has chunks.
    """
    wrong, odd = report.reasons, report.warnings
    of_pictures(report.pictures, wrong if strict else odd, wrong, odd)
    if report.captions is not None:
        odd += of_captions(report.captions, report.pictures.usable, chunk)
    if report.latents is not None:
        bad, poor = findings(report.latents)
        (wrong if scale_check else odd).extend(bad)
        odd += poor
    disk = report.disk
    if disk is not None and disk.cache.while_encoding > disk.free:
        wrong.append(
            f"encoding needs {amount(disk.cache.while_encoding)} of disk and {disk.folder} has {amount(disk.free)} free"
        )
    files = report.files
    if files is not None and files.at_most > files.free:
        wrong.append(
            f"the run's files need {amount(files.at_most)} of disk and {files.folder} has {amount(files.free)} free; "
            "see checkpoint.keep, checkpoint.keep_every and ema.snapshot_every, or choose another run_dir"
        )
    for cache in report.caches:
        if cache.differences:
            listed = "; ".join(cache.differences)
            wrong.append(f"cache {cache.folder} was made by something else, and training refuses it: {listed}")
        odd += [f"{cache.folder}/{name} {problem}: it is encoded again" for name, problem in cache.damaged.items()]
    odd += of_memory(report)


def of_pictures(facts: PictureFacts, unusable: list[str], wrong: list[str], odd: list[str]) -> None:
    """What pictures tell, put where it belongs."""
    if not facts.usable:
        wrong.append("nothing in the source can be used")
    elif facts.usable == facts.held_out:
        wrong.append(f"all {facts.usable:,} usable pictures are held out: none is left to train on")
    if facts.unusable:
        unusable.append(f"cannot be used: {len(facts.unusable):,} of {facts.items:,} pictures ({some(facts.unusable)})")
    split = [" = ".join(format_name(key) for key in group.keys[:SOME]) for group in facts.copies if group.split_differs]
    if split:
        wrong.append(f"held out, and to be trained on as a copy, byte for byte: {len(split):,} ({some(split)})")
    if facts.copies:
        differ = sum(group.captions_differ for group in facts.copies)
        odd.append(
            f"copies: {sum(len(group.keys) - 1 for group in facts.copies):,}, of {len(facts.copies):,} different pictures, "
            "which training sees more often for them" + (f"; with other captions: those of {differ:,}" if differ else "")
        )
    if facts.enlarged:
        worst = max(facts.enlarged.values())
        odd.append(f"smaller than what is trained on: {len(facts.enlarged):,} pictures, enlarged up to {worst:.3g} times")
    for what, keys in (
        (f"enlarged more than {TINY} times", facts.tiny),
        ("with a colour profile that is ignored", facts.profiles),
        ("all of one colour", facts.flat),
    ):
        if keys:
            odd.append(f"{what}: {len(keys):,} ({some(keys)})")


def of_captions(facts: CaptionFacts, pictures: int, chunk: int | None) -> list[str]:
    """What captions tell."""
    odd = []
    if facts.cut:
        beyond = sum(tokens - facts.capacity for _, tokens in facts.cut) / len(facts.cut)
        whole = f"; text_encoder.chunks={ceil(facts.longest / chunk)} keeps all whole" if chunk else ""
        odd.append(
            f"{len(facts.cut):,} of {facts.distinct:,} captions ({len(facts.cut) / facts.distinct:.1%}), those of "
            f"{facts.pictures_cut:,} pictures, are cut at {facts.capacity} tokens, by {beyond:.1f} on average; the longest "
            f"has {facts.longest:,}{whole}"
        )
    if facts.common and facts.common[0][1] > COMMON * pictures:
        text, count = facts.common[0]
        odd.append(f"{count:,} of {pictures:,} pictures have the same caption: {format_name(text)[:80]!r}")
    return odd


def of_memory(report: Report) -> list[str]:
    """What does not fit into this machine, which need not be the one to train on."""
    training, free = report.training, report.free_memory
    if training is None or free is None:
        return []
    needed = training.memory.total + training.autoencoder + (training.activations or 0)
    if needed <= HELD_BYTES * free:
        return []
    device = "GPU" if training.device == "cuda" else "machine"
    return [
        f"training needs about {amount(needed)} of memory, and this {device} has {amount(free)} free; see micro_batch_size"
    ]


def some(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    everything = [format_name(name) for name in names]
    return ", ".join(everything[:SOME]) + (f", and {len(everything) - SOME:,} more" if len(everything) > SOME else "")


def amount(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1024
    return f"{size:.4g} TiB"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    for unit, length in (("days", 2 * 86400), ("hours", 2 * 3600), ("minutes", 120)):
        if seconds >= length:
            return f"{seconds / (length / 2):.3g} {unit}"
    return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"
