"""A check's report as a page, with the pictures that it is about."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from ldm_train.commands.check.dataset_facts import CaptionFacts, PictureFacts
from ldm_train.commands.check.findings import Report, amount, duration
from ldm_train.commands.check.reconstruction import Latents
from ldm_train.commands.check.terminal import of_cache, of_cost
from ldm_train.data.cache.plan import CachePlan, format_bucket
from ldm_train.data.scan.inspection import Inspected
from ldm_train.data.sources.items import EncodedPicture
from ldm_train.reports.charts import Histogram
from ldm_train.reports.page import Page, Section, Verdict
from ldm_train.reports.page_blocks import Bars, DataTable, Facts, PageBlock, Paragraphs, Thumbnail, Thumbnails

T = TypeVar("T")
REJECTED, EXAMPLES, LONGEST, SHOWN = 24, 6, 8, 12  # thumbnails


def page(report: Report, looked: Sequence[Inspected], plan: CachePlan | None) -> Page:
    """The whole report; pictures are read again, where they can be."""
    pictures = {one.item.key: one.item.picture for one in looked}
    count = len(report.reasons)
    text = f"Training would go wrong: {count} to mend" if count else "Nothing found that keeps from training"
    return Page(
        "Check before training",
        Verdict(ok=not count, text=text, reasons=report.reasons),
        summary(report),
        [
            Section("Warnings", [Paragraphs(report.warnings)]),
            Section("Pictures that cannot be used", rejected(report.pictures, pictures)),
            Section("Shapes", shapes(report.pictures, plan)),
            Section("Pictures to look at", odd(report.pictures, pictures)),
            Section("Copies", duplicates(report.pictures, pictures), "Pictures of the same bytes."),
            Section("Captions", captions(report.captions, looked) if report.captions else []),
            Section("Latents", latents(report.latents) if report.latents else []),
            Section("Cost", cost(report)),
            Section("Cache", [Paragraphs([of_cache(cache, report.pictures.usable) for cache in report.caches])]),
            Section("Source", [Paragraphs(report.notes)]),
        ],
    )


def summary(report: Report) -> list[tuple[str, str]]:
    facts = report.pictures
    rows = [("pictures", f"{facts.items:,}"), ("can be used", f"{facts.usable:,}"), ("held out", f"{facts.held_out:,}")]
    if report.captions is not None:
        rows.append(("distinct captions", f"{report.captions.distinct:,}"))
    if report.disk is not None:
        rows.append(("cache", amount(report.disk.cache.total)))
    if report.encoding_seconds is not None:
        rows.append(("encoding here", duration(report.encoding_seconds)))
    if report.training_seconds is not None:
        rows.append(("training here", duration(report.training_seconds)))
    if report.price is not None:
        rows.append(("price", f"{report.price:,.2f}"))
    return rows


def rejected(facts: PictureFacts, pictures: Mapping[str, EncodedPicture | None]) -> list[PageBlock]:
    thumbnails = [
        Thumbnail(content(pictures[key]), key, problem) for key, problem in first(facts.unusable.items(), REJECTED)
    ]
    return [Thumbnails(thumbnails), DataTable(["picture", "problem"], [[k, p] for k, p in facts.unusable.items()])]


def shapes(facts: PictureFacts, plan: CachePlan | None) -> list[PageBlock]:
    """How many pictures have each shape, how they are cut, and what some of each look like."""
    if plan is None or not facts.buckets:
        return []
    rows = [[bucket, f"{count:,}", f"{share:.1%}"] for bucket, (count, share) in facts.buckets.items()]
    sides = [min(seen.size) for seen in plan.scanned]
    bars = [(bucket, count, f"{count:,}") for bucket, (count, _) in facts.buckets.items()]
    blocks: list[PageBlock] = [
        Bars(bars if len(bars) > 1 else [], unit="pictures"),
        DataTable(["shape", "pictures", "cut away"], rows, numeric=["pictures", "cut away"]),
        Histogram.of(sides if len(set(sides)) > 1 else [], unit="pixels", caption="Shorter side"),
    ]
    for shape in plan.rows:
        some = first((seen for seen in plan.scanned if plan.shapes[seen.digest] == shape), EXAMPLES)
        notes = [f"{format_bucket(shape)}: cut from {seen.size[0]}x{seen.size[1]}" for seen in some]
        blocks.append(
            Thumbnails([Thumbnail(content(s.item.picture), s.item.key, n) for s, n in zip(some, notes, strict=True)])
        )
    return blocks


def odd(facts: PictureFacts, pictures: Mapping[str, EncodedPicture | None]) -> list[PageBlock]:
    """What can be used, and may not be meant."""
    enlarged = sorted(facts.enlarged.items(), key=lambda pair: -pair[1])
    notes = [(key, f"enlarged {factor:.3g} times") for key, factor in first(enlarged, SHOWN)]
    notes += [(key, "of one colour") for key in first(facts.flat, SHOWN)]
    notes += [(key, f"profile ignored: {problem}") for key, problem in first(facts.profiles.items(), SHOWN)]
    rows = [[key, f"{factor:.3g}"] for key, factor in enlarged]
    return [
        Thumbnails([Thumbnail(content(pictures[key]), key, note) for key, note in notes]),
        DataTable(["picture", "times"], rows, numeric=["times"], caption="Enlarged"),
        DataTable(["picture", "problem"], [[k, p] for k, p in facts.profiles.items()], caption="Colour profiles ignored"),
    ]


def duplicates(facts: PictureFacts, pictures: Mapping[str, EncodedPicture | None]) -> list[PageBlock]:
    rows = [
        [
            ", ".join(group.keys),
            "differ" if group.captions_differ else "the same",
            "some of them" if group.split_differs else "alike",
        ]
        for group in facts.copies
    ]
    thumbnails = [
        Thumbnail(content(pictures[g.keys[0]]), g.keys[0], f"{len(g.keys)} times") for g in first(facts.copies, SHOWN)
    ]
    return [Thumbnails(thumbnails), DataTable(["pictures", "captions", "held out"], rows)]


def captions(facts: CaptionFacts, looked: Sequence[Inspected]) -> list[PageBlock]:
    """What is cut, what is common, and the pictures of the longest."""
    longest = sorted(
        ((max(one.item.captions, key=len), one) for one in looked if one.problem is None and one.item.captions),
        key=lambda pair: (-len(pair[0]), pair[1].item.key),
    )
    thumbnails = [Thumbnail(content(one.item.picture), text, one.item.key) for text, one in longest[:LONGEST]]
    return [
        Facts(
            [
                ("distinct", f"{facts.distinct:,}"),
                ("pictures with several", f"{facts.several:,}"),
                ("tokens kept of a caption", f"{facts.capacity:,}"),
                ("tokens of the longest", f"{facts.longest:,}"),
                ("captions cut", f"{len(facts.cut):,}"),
            ]
        ),
        Thumbnails(thumbnails),
        DataTable(["caption", "tokens"], [[t, f"{n:,}"] for t, n in facts.cut], numeric=["tokens"], caption="Cut"),
        DataTable(
            ["caption", "pictures"],
            [[t, f"{n:,}"] for t, n in facts.common],
            numeric=["pictures"],
            caption="Of several pictures",
        ),
    ]


def latents(found: Latents) -> list[PageBlock]:
    channels = list(enumerate(zip(found.mean, found.std, strict=True)))
    return [
        Facts(
            [
                ("pictures tried", f"{found.pictures}"),
                ("their range", f"{found.low:.3f} to {found.high:.3f}"),
                ("deviation after scaling", f"{found.deviation:.3f} (near 1 is right)"),
                ("likeness when decoded", f"{found.psnr:.1f} dB"),
            ]
        ),
        DataTable(
            ["channel", "mean", "deviation"],
            [[f"{i}", f"{m:.3f}", f"{s:.3f}"] for i, (m, s) in channels],
            numeric=["mean", "deviation"],
            caption="Raw latents",
        ),
    ]


def cost(report: Report) -> list[PageBlock]:
    blocks: list[PageBlock] = [Paragraphs([line.strip() for line in of_cost(report)])]
    if report.training is not None:
        memory, activations = report.training.memory, report.training.activations
        parts = {"weights": memory.weights + report.training.autoencoder, "gradients": memory.gradients}
        parts |= {"optimizer": memory.optimizer, "averaged weights": memory.ema, "activations": activations or 0}
        blocks.append(
            Bars([(name, size, amount(size)) for name, size in parts.items() if size], unit="memory of one device")
        )
    return blocks


def first(things: Iterable[T], count: int) -> list[T]:
    return list(islice(things, count))


def content(picture: EncodedPicture | None) -> bytes | None:
    """A picture's bytes; None where they cannot be had (any more)."""
    try:
        return None if picture is None else picture.read()
    except (OSError, ValueError):
        return None
