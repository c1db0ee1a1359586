"""Build the HTML page of a check's report, with thumbnails of the pictures that it mentions."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

from PIL import Image

from ldm_train.assembly.decoded_sample import DecodedPicture, draw_reconstructions
from ldm_train.commands.check.dataset_facts import CaptionFacts, PictureFacts
from ldm_train.commands.check.findings import Report, count_problems, format_bytes
from ldm_train.commands.check.reconstruction import LatentStatistics
from ldm_train.commands.check.terminal import format_cache, format_cost
from ldm_train.commands.check.thumbnails import draw_crops, make_thumbnail
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.pictures.crops import View, format_size
from ldm_train.data.scan.inspection import Decoder, Inspected
from ldm_train.reports.charts import Histogram
from ldm_train.reports.embedded_pictures import embed_picture
from ldm_train.reports.page import Page, PageSection, Verdict
from ldm_train.reports.page_blocks import (
    Bars,
    DataTable,
    Facts,
    PageBlock,
    Paragraphs,
    Pictures,
    Thumbnail,
    Thumbnails,
    WholePicture,
)
from ldm_train.util.text import format_duration

T = TypeVar("T")
REJECTED, EXAMPLES, LONGEST, SHOWN = 24, 6, 8, 12  # thumbnails


class SourcePictures:
    """The pictures of a source by key, which are read again for thumbnails if the source allows it."""

    def __init__(self, looked: Sequence[Inspected], decoder: Decoder) -> None:
        self.by_key = {one.item.key: one.item.picture for one in looked}
        self.decoder = decoder

    def thumbnail(self, key: str, caption: str = "", note: str = "", *, views: Sequence[View] = ()) -> Thumbnail:
        """Return the thumbnail of a picture, with the crops of these views drawn."""
        small = make_thumbnail(self.by_key[key], self.decoder)
        return Thumbnail(draw_crops(small, views) if views else small, caption or key, note)


def build_check_page(report: Report, looked: Sequence[Inspected], plan: CachePlan | None, decoder: Decoder) -> Page:
    """Return the page of a report."""
    pictures = SourcePictures(looked, decoder)
    count = len(report.reasons)
    text = f"{count_problems(count)} to fix before training" if count else "No problems found: ready to train"
    return Page(
        "Check before training",
        Verdict(ok=not count, text=text, reasons=report.reasons),
        list_summary(report),
        [
            PageSection("Warnings", [Paragraphs(report.warnings)]),
            PageSection("Pictures that cannot be used", build_rejected_blocks(report.pictures, pictures)),
            PageSection("Shapes", build_shape_blocks(report.pictures, plan, pictures)),
            PageSection("Most cut away", build_crop_blocks(report.pictures, plan, pictures)),
            PageSection("Pictures to look at", build_suspect_blocks(report.pictures, pictures)),
            PageSection("Copies", build_copy_blocks(report.pictures, pictures), "Pictures with identical bytes."),
            PageSection("Captions", build_caption_blocks(report.captions, looked, pictures) if report.captions else []),
            PageSection("Latents", build_latent_blocks(report.latents) if report.latents else []),
            PageSection(
                "Reconstructions",
                build_reconstruction_blocks(report.decoded),
                "Pictures above, encoded and decoded below: no network can draw better than this.",
            ),
            PageSection("Cost", build_cost_blocks(report)),
            PageSection("Cache", [Paragraphs([format_cache(cache, report.pictures.usable) for cache in report.caches])]),
            PageSection("Source", [Paragraphs(report.notes)]),
        ],
    )


def list_summary(report: Report) -> list[tuple[str, str]]:
    facts = report.pictures
    rows = [("pictures", f"{facts.items:,}"), ("can be used", f"{facts.usable:,}"), ("held out", f"{facts.held_out:,}")]
    if report.captions is not None:
        rows.append(("distinct captions", f"{report.captions.distinct:,}"))
    if report.disk is not None:
        rows.append(("cache", format_bytes(report.disk.cache.total)))
    if report.encoding_seconds is not None:
        rows.append(("encoding here", format_duration(report.encoding_seconds)))
    if report.training_seconds is not None:
        rows.append(("training here", format_duration(report.training_seconds)))
    if report.price is not None:
        rows.append(("price", f"{report.price:,.2f}"))
    return rows


def build_rejected_blocks(facts: PictureFacts, pictures: SourcePictures) -> list[PageBlock]:
    thumbnails = [pictures.thumbnail(key, note=problem) for key, problem in take_first(facts.unusable.items(), REJECTED)]
    rows = [[key, problem] for key, problem in [*facts.unusable.items(), *facts.rows.items()]]
    return [Thumbnails(thumbnails), DataTable(["picture", "problem"], rows)]


def build_shape_blocks(facts: PictureFacts, plan: CachePlan | None, pictures: SourcePictures) -> list[PageBlock]:
    """Return the number of pictures of each shape, how much is cut away, and some examples of each."""
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
        some = take_first((seen for seen in plan.scanned if plan.shape(seen.size, seen.digest) == shape), EXAMPLES)
        notes = [f"{format_size(shape)}: cut from {format_size(seen.size)}" for seen in some]
        blocks.append(Thumbnails([pictures.thumbnail(s.item.key, note=n) for s, n in zip(some, notes, strict=True)]))
    return blocks


def build_crop_blocks(facts: PictureFacts, plan: CachePlan | None, pictures: SourcePictures) -> list[PageBlock]:
    """Return the pictures that lose most of their area, with the crop drawn."""
    if plan is None or not facts.cropped:
        return []
    seen = {one.item.key: one for one in plan.scanned if one.item.key in facts.cropped}
    thumbnails = [
        pictures.thumbnail(key, note=f"{share:.0%} cut away", views=plan.crop(seen[key].size, seen[key].digest))
        for key, share in take_first(facts.cropped.items(), SHOWN)
    ]
    rows = [[key, f"{share:.1%}"] for key, share in facts.cropped.items()]
    return [Thumbnails(thumbnails), DataTable(["picture", "cut away"], rows, numeric=["cut away"])]


def build_suspect_blocks(facts: PictureFacts, pictures: SourcePictures) -> list[PageBlock]:
    """Return the pictures that can be used, but that may not be what the user intended."""
    enlarged = sorted(facts.enlarged.items(), key=lambda pair: -pair[1])
    notes = [(key, f"enlarged {factor:.3g} times") for key, factor in take_first(enlarged, SHOWN)]
    notes += [(key, "of one colour") for key in take_first(facts.flat, SHOWN)]
    notes += [(key, f"profile ignored: {problem}") for key, problem in take_first(facts.profiles.items(), SHOWN)]
    rows = [[key, f"{factor:.3g}"] for key, factor in enlarged]
    return [
        Thumbnails([pictures.thumbnail(key, note=note) for key, note in notes]),
        DataTable(["picture", "times"], rows, numeric=["times"], caption="Enlarged"),
        DataTable(["picture", "problem"], [[k, p] for k, p in facts.profiles.items()], caption="Colour profiles ignored"),
    ]


def build_copy_blocks(facts: PictureFacts, pictures: SourcePictures) -> list[PageBlock]:
    rows = [
        [
            ", ".join(group.keys),
            "differ" if group.captions_differ else "the same",
            "some of them" if group.split_differs else "alike",
        ]
        for group in facts.copies
    ]
    thumbnails = [pictures.thumbnail(g.keys[0], note=f"{len(g.keys)} times") for g in take_first(facts.copies, SHOWN)]
    return [Thumbnails(thumbnails), DataTable(["pictures", "captions", "held out"], rows)]


def build_caption_blocks(facts: CaptionFacts, looked: Sequence[Inspected], pictures: SourcePictures) -> list[PageBlock]:
    """Return the captions that are cut or repeated, and the pictures with the longest captions."""
    longest = sorted(
        ((max(one.item.captions, key=len), one) for one in looked if one.problem is None and one.item.captions),
        key=lambda pair: (-len(pair[0]), pair[1].item.key),
    )
    thumbnails = [pictures.thumbnail(one.item.key, text, one.item.key) for text, one in longest[:LONGEST]]
    return [
        Facts(
            [
                ("distinct", f"{facts.distinct:,}"),
                ("pictures with several captions", f"{facts.several:,}"),
                ("tokens kept per caption", f"{facts.capacity:,}"),
                ("tokens of the longest caption", f"{facts.longest:,}"),
                ("captions cut", f"{len(facts.cut):,}"),
            ]
        ),
        Thumbnails(thumbnails),
        DataTable(["caption", "tokens"], [[t, f"{n:,}"] for t, n in facts.cut], numeric=["tokens"], caption="Cut"),
        DataTable(
            ["caption", "pictures"],
            [[t, f"{n:,}"] for t, n in facts.common],
            numeric=["pictures"],
            caption="Shared by several pictures",
        ),
    ]


def build_latent_blocks(latents: LatentStatistics) -> list[PageBlock]:
    channels = list(enumerate(zip(latents.mean, latents.std, strict=True)))
    return [
        Facts(
            [
                ("pictures tried", f"{latents.pictures}"),
                ("range of pixel values", f"{latents.low:.3f} to {latents.high:.3f}"),
                ("RMS after scaling", f"{latents.deviation:.3f} (should be near 1)"),
                ("PSNR after decoding", f"{latents.psnr:.1f} dB"),
            ]
        ),
        DataTable(
            ["channel", "mean", "deviation"],
            [[f"{i}", f"{m:.3f}", f"{s:.3f}"] for i, (m, s) in channels],
            numeric=["mean", "deviation"],
            caption="Raw latents",
        ),
    ]


def build_reconstruction_blocks(pictures: Sequence[DecodedPicture]) -> list[PageBlock]:
    """Return pictures above their reconstructions, from the worst to the best."""
    if not pictures:
        return []
    drawn = Image.fromarray(draw_reconstructions(pictures).permute(1, 2, 0).numpy())
    return [Pictures([WholePicture(embed_picture(drawn), "pictures above their reconstructions")])]


def build_cost_blocks(report: Report) -> list[PageBlock]:
    blocks: list[PageBlock] = [Paragraphs([line.strip() for line in format_cost(report)])]
    if report.training is not None:
        memory, activations = report.training.memory, report.training.activations
        parts = {"weights": memory.weights + report.training.autoencoder, "gradients": memory.gradients}
        parts |= {"optimizer": memory.optimizer, "averaged weights": memory.ema, "activations": activations or 0}
        blocks.append(
            Bars([(name, size, format_bytes(size)) for name, size in parts.items() if size], unit="memory of one device")
        )
    return blocks


def take_first(things: Iterable[T], count: int) -> list[T]:
    return list(islice(things, count))
