"""Hold the results of a check, sort them into problems and warnings, and convert them to JSON with fixed keys."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from math import ceil

from ldm_train.assembly.decoded_sample import DecodedPicture
from ldm_train.assembly.encoding_memory import EncodingMemory
from ldm_train.assembly.learning_time import LearningTime
from ldm_train.commands.check.dataset_facts import LARGE_LOSS, TINY, CaptionFacts, Copies, PictureFacts
from ldm_train.commands.check.estimate import Disk, StepEstimate
from ldm_train.commands.check.existing_cache import CacheComparison
from ldm_train.commands.check.forecast import ClassPictures, RunFiles
from ldm_train.commands.check.reconstruction import LatentStatistics, judge_latents
from ldm_train.data.scan.source_review import judge_unread
from ldm_train.data.sources.items import format_name
from ldm_train.util.safe_json import Json
from ldm_train.util.text import shorten

SOME = 3
COMMON = 0.5  # share of the pictures; one caption for more than these is hardly intended
HELD_BYTES = 0.95  # share of a device's free memory that can be used


@dataclass
class Report:
    """The results of a check.

    Args:
        notes: what the source detected.
        decoded: pictures that were encoded and decoded.
        encoding_memory: bytes at the peak of encoding everything.
        encoding_seconds, prior_seconds, training_seconds: of encoding everything, of drawing class pictures, and of training
            to the last step.
        price: of all three, if the price of an hour is known.
        free_memory: bytes free on the device that a step was measured on.
        reasons: problems that training would refuse or that would spoil it.
        warnings: what may be intended, for a person to decide.
    """

    pictures: PictureFacts
    notes: list[str] = field(default_factory=list)
    captions: CaptionFacts | None = None
    latents: LatentStatistics | None = None
    decoded: list[DecodedPicture] = field(default_factory=list)
    disk: Disk | None = None
    prior: ClassPictures | None = None
    training: StepEstimate | None = None
    learning: LearningTime | None = None
    files: RunFiles | None = None
    caches: list[CacheComparison] = field(default_factory=list)
    encoding_memory: EncodingMemory | None = None
    encoding_seconds: float | None = None
    prior_seconds: float | None = None
    training_seconds: float | None = None
    price: float | None = None
    free_memory: int | None = None
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Json]:
        """Return the report as JSON; values that vary between repetitions or machines are under "measured"."""
        values = asdict(replace(self, decoded=[]))
        del values["decoded"]
        measured: dict[str, Json] = {name: values.pop(name) for name in MEASURED}
        if self.disk is not None:
            measured["free_disk"] = values["disk"].pop("free")
            values["disk"]["total"], values["disk"]["while_encoding"] = self.disk.cache.total, self.disk.cache.while_encoding
        if self.files is not None:
            measured["free_disk_of_run"] = values["files"].pop("free")
            values["files"]["total"], values["files"]["at_most"] = self.files.total, self.files.at_most
        if self.learning is not None:
            measured["example_seconds"] = values["learning"].pop("second")
        if self.training is not None:
            measured["step"] = values["training"].pop("tried")
            measured["device"] = values["training"].pop("device")
            measured["activations"], measured["step_seconds"] = self.training.activations, self.training.seconds
        return {"ok": not self.reasons, **values, "measured": measured}


MEASURED = ("encoding_memory", "encoding_seconds", "prior_seconds", "training_seconds", "price", "free_memory")


def judge_report(report: Report, *, strict: bool, scale_check: bool, chunk: int | None) -> None:
    """Add the problems and warnings that follow from the results to the report.

    Args:
        strict: whether an unusable picture is a problem rather than a warning.
        scale_check: whether wrong latents are a problem rather than a warning.
        chunk: tokens of one chunk of the text encoder, if it has chunks.
    """
    problems, warnings = report.reasons, report.warnings
    judge_pictures(report.pictures, problems if strict else warnings, problems, warnings)
    if report.captions is not None:
        warnings += judge_captions(report.captions, report.pictures.usable, chunk)
    if report.latents is not None:
        (problems if scale_check else warnings).extend(judge_latents(report.latents))
    disk = report.disk
    if disk is not None and disk.cache.while_encoding > disk.free:
        problems.append(
            f"encoding needs {format_bytes(disk.cache.while_encoding)} of disk, but {disk.folder} has "
            f"{format_bytes(disk.free)} free; free some space, or choose another cache=DIR"
        )
    files = report.files
    if files is not None and files.at_most > files.free:
        problems.append(
            f"the run's files need {format_bytes(files.at_most)} of disk, but {files.folder} has "
            f"{format_bytes(files.free)} free; "
            "see checkpoint.keep, checkpoint.keep_every and ema.snapshot_every, or choose another run_dir=DIR"
        )
    for cache in report.caches:
        if cache.differences:
            listed = "; ".join(cache.differences)
            problems.append(f"cache {cache.folder} was encoded with other settings, and training refuses it: {listed}")
        warnings += [f"{cache.folder}/{name} {problem}: it is encoded again" for name, problem in cache.damaged.items()]
    warnings += judge_memory(report)


def judge_source(report: Report, unread: Counter[str], *, strict: bool, most: float) -> None:
    """Add how much of the source cannot be used, as `encode` judges it.

    Args:
        unread: pictures of kinds that are not read, by suffix.
        strict: whether each unusable picture is a problem already.
        most: the share of the pictures from which on unusable ones are a problem.
    """
    facts = report.pictures
    problem, warning = judge_unread(unread, usable=facts.usable, unusable=len(facts.unusable), most=most)
    if problem and facts.usable and (unread or not strict):
        report.reasons.append(problem)
    report.warnings += [warning] if warning else []


def judge_pictures(facts: PictureFacts, unusable: list[str], problems: list[str], warnings: list[str]) -> None:
    """Add what the pictures show to one of the lists; `unusable` is the list for unusable pictures."""
    if not facts.usable:
        problems.append("no picture in the source can be used")
    elif facts.usable == facts.held_out:
        problems.append(f"all {facts.usable:,} usable pictures are held out: none is left to train on")
    is_problem = unusable is problems and facts.usable > 0
    advice = "; strict=false accepts this, and `ldm-train encode` leaves them out" if is_problem else ""
    if facts.unusable:
        unusable.append(
            f"cannot be used: {len(facts.unusable):,} of {facts.items:,} pictures ({shorten_names(facts.unusable)}){advice}"
        )
    if facts.rows:
        unusable.append(
            f"cannot be used: {len(facts.rows):,} rows or files about no picture ({shorten_names(facts.rows)}){advice}"
        )
    split = name_copies(group for group in facts.copies if group.split_differs)
    if split:
        problems.append(
            f"held out, but an identical copy, byte for byte, is trained on: {len(split):,} ({shorten_names(split)})"
        )
    if facts.copies:
        differ = name_copies(group for group in facts.copies if group.captions_differ)
        captions = f"; the captions of {len(differ):,} of them differ ({shorten_names(differ)})" if differ else ""
        warnings.append(
            f"{sum(len(group.keys) - 1 for group in facts.copies):,} copies of {len(facts.copies):,} different pictures, "
            f"which training sees more often than others{captions}"
        )
    if facts.enlarged:
        worst = max(facts.enlarged.values())
        warnings.append(
            f"{len(facts.enlarged):,} pictures are smaller than the training size and are enlarged, up to {worst:.3g} times"
        )
    if facts.cropped:
        most = [f"{format_name(key)}: {share:.0%}" for key, share in facts.cropped.items()]
        heads = f"; {facts.upright:,} of them are upright, and lose top and bottom, where heads are" if facts.upright else ""
        warnings.append(
            f"the crop cuts away more than {LARGE_LOSS:.0%} of the area of {len(facts.cropped):,} of "
            f"{facts.usable:,} pictures ({shorten_names(most)}){heads}; crop=buckets keeps more, crop=fit everything"
        )
    if facts.dark:
        key, share = next(iter(facts.dark.items()))
        warnings.append(
            f"{len(facts.dark):,} pictures are nearly black; the brightest value of {format_name(key)} is {share:.0%} of "
            "white. If they have 10 or 12 bits of values stored in 16 bits, scale the values to the whole range"
        )
    for description, keys in (
        (f"enlarged more than {TINY} times", facts.tiny),
        ("with a colour profile that is ignored", facts.profiles),
        ("with a single colour", facts.flat),
        ("with further pages or frames, of which only the first is used", facts.more_frames),
    ):
        if keys:
            warnings.append(f"pictures {description}: {len(keys):,} ({shorten_names(keys)})")


def judge_captions(facts: CaptionFacts, pictures: int, chunk: int | None) -> list[str]:
    """Return warnings about captions that are cut, and about one caption for most pictures."""
    warnings = []
    if facts.cut:
        beyond = sum(tokens - facts.capacity for _, tokens in facts.cut) / len(facts.cut)
        advice = f"; text_encoder.chunks={ceil(facts.longest / chunk)} keeps all tokens" if chunk else ""
        warnings.append(
            f"{len(facts.cut):,} of {facts.distinct:,} captions ({len(facts.cut) / facts.distinct:.1%}), in "
            f"{facts.pictures_cut:,} pictures, are cut at {facts.capacity} tokens, by {beyond:.1f} on average; the longest "
            f"has {facts.longest:,} tokens: {shorten(facts.cut[0][0])!r}{advice}"
        )
    if facts.common and facts.common[0][0] and facts.common[0][1] > COMMON * pictures:
        text, count = facts.common[0]
        have = "share a caption" if facts.several else "have the same caption"
        warnings.append(f"{count:,} of {pictures:,} pictures {have}: {format_name(text)[:80]!r}")
    return warnings


def judge_memory(report: Report) -> list[str]:
    """Return a warning if training does not fit into this machine's memory; training may run on another machine."""
    training, free = report.training, report.free_memory
    if training is None or free is None:
        return []
    needed = training.memory.total + training.autoencoder + (training.activations or 0)
    if needed <= HELD_BYTES * free:
        return []
    device = "GPU" if training.device == "cuda" else "machine"
    return [
        f"training needs about {format_bytes(needed)} of memory, but this {device} has {format_bytes(free)} free; "
        "set a smaller micro_batch_size"
    ]


def name_copies(groups: Iterable[Copies]) -> list[str]:
    """Return the first keys of each group: "a.png = b.png"."""
    return [" = ".join(format_name(key) for key in group.keys[:SOME]) for group in groups]


def shorten_names(names: Iterable[str]) -> str:
    """Return the first few names and how many more there are."""
    everything = [format_name(name) for name in names]
    return ", ".join(everything[:SOME]) + (f", and {len(everything) - SOME:,} more" if len(everything) > SOME else "")


def format_bytes(size: float) -> str:
    """Return a number of bytes with a binary unit, such as "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1024
    return f"{size:.4g} TiB"


def count_problems(count: int) -> str:
    return f"{count} problem{'s' * (count != 1)}"
