"""`check`: it finds each kind of fault before training, names it, and exits with 1; it accepts what is fine."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_train.commands.check.command import run as run_check
from ldm_train.data.scan.source_review import group_problems
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.commands import default_values
from ldm_train.settings.schema.training import CheckSettings
from tests.conftest import NETWORK, PICTURES, TEXT
from tests.data.bad_pictures import bad_pictures

SMALL = [*PICTURES, *TEXT, *NETWORK, "trainer.accelerator=cpu", "threads=1", "batch_size=4"]
UNTRIED = ["measure=false"]
OWN = {"out", "measure", "price_per_hour", "encode_batch_size"}
NOT_OURS = {"defaults", "hydra"}


def noise(seed: int, size: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """`make({"a.png": (picture or bytes, caption, split)})`: a folder with metadata."""

    def made(contents: dict[str, tuple]) -> Path:
        source = tmp_path / "source"
        source.mkdir()
        rows = []
        for name, (picture, caption, *split) in contents.items():
            if isinstance(picture, bytes):
                (source / name).write_bytes(picture)
            else:
                picture.save(source / name)
            rows.append({"file_name": name, "text": caption} | ({"split": split[0]} if split else {}))
        (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return source

    return made


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_train.training.cost.SECONDS", 0.2)


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable:
    """`check(source, *words)`: the exit code, what was printed, and the JSON."""

    def run(source: Path, *words: str) -> tuple[int, str, dict]:
        out = tmp_path / "report"
        code = run_check(compose_as(CheckSettings, [*SMALL, f"source.path={source}", f"out={out}", *words]))
        return code, capsys.readouterr().out, json.loads((out / "check.json").read_text())

    return run


def warned(report: dict, of: str) -> bool:
    return any(of in warning for warning in report["warnings"])


def test_it_takes_every_setting_of_encode_and_of_train() -> None:
    """With the same default, or training would be checked otherwise than it is done."""
    check, encode, train = (default_values(verb) for verb in ("check", "encode", "train"))
    assert set(encode) | set(train) <= set(check)
    given = set(check) - OWN - NOT_OURS - {"cache", "run_dir", "strict", "image_size", "batch_size"}
    for verb in (encode, train):
        assert {name: verb[name] for name in given & set(verb)} == {name: check[name] for name in given & set(verb)}
    assert (check["batch_size"], check["encode_batch_size"]) == (train["batch_size"], encode["batch_size"])


def test_a_batch_of_pictures_that_does_not_fit_is_a_problem(
    pictures: Path, check: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, report = check(pictures, *UNTRIED)
    assert code == 0
    assert "encoding takes about" in out
    assert report["measured"]["encoding_memory"]["batches"] > 0
    monkeypatch.setattr("ldm_train.assembly.encoding_memory.machine_memory", lambda: 2**20)
    code, out, report = check(pictures, *UNTRIED, "encode_batch_size=1000")
    assert code == 1
    assert any("encode_batch_size=1000" in reason for reason in report["reasons"])


def test_whole_pictures_pass_and_the_page_needs_nothing_else(pictures: Path, check: Callable, tmp_path: Path) -> None:
    code, out, report = check(pictures, "price_per_hour=3")
    assert code == 0
    assert report["ok"] is True
    assert "12 pictures: 12 can be used (3 held out), 0 cannot" in out
    assert report["captions"]["distinct"] == 13
    assert report["captions"]["several"] == 1
    assert report["pictures"]["buckets"] == {"16x16": [12, 0.0]}
    assert report["measured"]["step_seconds"] > 0
    assert report["measured"]["price"] > 0
    page = (tmp_path / "report/check.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page
    assert page.count("data:image/jpeg") >= 6


def test_the_report_is_the_same_every_time(pictures: Path, check: Callable) -> None:
    first, second = (check(pictures)[2] for _ in range(2))
    assert first.pop("measured").keys() == second.pop("measured").keys()
    assert first == second


def test_every_bad_picture_is_listed_with_its_reason(make: Callable, check: Callable) -> None:
    named = {name if "." in name else f"{name}.png": value for name, value in bad_pictures().items()}
    code, out, report = check(make({name: (content, name) for name, (content, _) in named.items()}), *UNTRIED)
    assert code == 1
    facts = report["pictures"]
    problems = {**facts["unusable"], **facts["rows"]}
    assert facts["items"] == len(named) - len(facts["rows"]) == facts["usable"] + len(facts["unusable"])
    assert all(line in out for line in group_problems(problems))
    for name, (_, reason) in named.items():
        if name in problems:
            assert (reason or "") in problems[name] or "not a picture in the folder" in problems[name]
        else:
            assert reason is None, name
    assert any("cannot be used" in reason for reason in report["reasons"])


def test_what_cannot_be_used_may_be_borne(make: Callable, check: Callable) -> None:
    source = make({"good.png": (noise(0), "good"), "bad.png": (b"", "bad"), "untold.png": (noise(1), "")})
    code, out, report = check(source, *UNTRIED, "strict=false", "max_unusable=1")
    assert code == 0
    assert "bad.png: the picture does not decode: empty file" in out
    assert "untold.png: no caption" in out
    assert warned(report, "cannot be used: 2 of 3 pictures (bad.png, untold.png)")


def test_rows_are_not_counted_as_pictures(make: Callable, check: Callable) -> None:
    source = make({name: (noise(n), name) for n, name in enumerate(["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"])})
    for name in ("c.png", "d.png", "e.png", "f.png"):
        (source / name).unlink()
    code, out, report = check(source, *UNTRIED, "strict=false")
    assert code == 0
    assert (report["pictures"]["items"], report["pictures"]["usable"], len(report["pictures"]["rows"])) == (2, 2, 4)
    assert "c.png and 3 more" in out
    assert "d.png" not in out.replace("(c.png, d.png", "")
    assert warned(report, "4 rows or files about no picture")


@pytest.mark.parametrize(("unread", "most", "code"), [(1, 0.5, 0), (4, 0.5, 1), (4, 1, 0)])
def test_a_source_of_which_half_is_not_read_is_refused(
    unread: int, most: float, code: int, make: Callable, check: Callable
) -> None:
    source = make({"a.png": (noise(0), "a"), "b.png": (noise(1), "b")})
    for number in range(unread):
        (source / f"{number}.psd").touch()
    found, _, report = check(source, *UNTRIED, f"max_unusable={most}")
    lines = report["reasons"] if code else report["warnings"]
    assert found == code
    assert any(f"{unread} of {unread + 2} pictures" in line and f"{unread} .psd" in line for line in lines)


def test_captions_are_shown_and_odd_ones_are_named(make: Callable, check: Callable) -> None:
    _, out, report = check(make({"a.png": (noise(0), "a (red:1.2) cat")}), *UNTRIED, "source.prefix=sks")
    assert "caption of a.png: 'sksa (red:1.2) cat'" in out
    assert warned(report, "web UI")


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ({"a.png": (b"", "a")}, "no picture in the source can be used"),
        ({"a.png": (noise(0), "a", "test")}, "all 1 usable pictures are held out"),
    ],
)
def test_a_source_of_nothing_to_train_on_is_refused(contents: dict, reason: str, make: Callable, check: Callable) -> None:
    code, out, report = check(make(contents), *UNTRIED)
    assert code == 1
    assert reason in "\n".join(report["reasons"])
    assert f"- {reason}" in out


def test_a_held_out_picture_among_those_to_train_on_is_refused(make: Callable, check: Callable) -> None:
    contents = {"a.png": (noise(0), "a"), "b.png": (noise(0), "a", "test"), "c.png": (noise(1), "c")}
    code, _, report = check(make(contents), *UNTRIED)
    assert code == 1
    assert any("1 (a.png = b.png)" in reason for reason in report["reasons"])


def test_copies_small_and_flat_pictures_are_only_warned_of(make: Callable, check: Callable) -> None:
    contents = {
        "a.png": (noise(0), "a"),
        "b.png": (noise(0), "another"),
        "small.png": (noise(1, 12), "c"),
        "tiny.png": (noise(2, 3), "d"),
        "flat.png": (Image.new("RGB", (16, 16), "red"), "e"),
        "profile.png": (bad_pictures()["profile_broken.png"][0], "f"),
    }
    code, _, report = check(make(contents), *UNTRIED)
    assert code == 0
    assert warned(report, "1 copies of 1 different pictures")
    assert warned(report, "the captions of 1 of them differ (a.png = b.png)")
    assert warned(report, "2 pictures are smaller")
    assert warned(report, "5.33 times")
    assert warned(report, "enlarged more than 4 times: 1 (tiny.png)")
    assert warned(report, "with a single colour: 1 (flat.png)")
    assert warned(report, "with a colour profile that is ignored: 1 (profile.png)")
    assert [group["keys"] for group in report["pictures"]["copies"]] == [["a.png", "b.png"]]


def test_dark_pictures_and_further_frames_are_named(make: Callable, check: Callable) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    contents = {f"{bits}.png": (Image.fromarray(grey * (2**bits // 256)), str(bits)) for bits in (10, 12, 16)}
    contents |= {"black.png": (Image.new("RGB", (16, 16)), "black"), "dark.png": (noise(1).point(lambda v: v // 20), "dark")}
    frames = io.BytesIO()
    noise(0).save(frames, "TIFF", save_all=True, append_images=[noise(2)])
    _, _, report = check(make({**contents, "a.tif": (frames.getvalue(), "frames")}), *UNTRIED)
    assert report["pictures"]["dark"] == {"10.png": 0.016, "12.png": 0.063, "dark.png": 0.047}
    assert warned(report, "3 pictures are nearly black; the brightest value of 10.png is 2% of white")
    assert report["pictures"]["more_frames"] == ["a.tif"]
    assert warned(report, "1 (a.tif)")


@pytest.mark.parametrize("strict", [True, False])
def test_a_strict_problem_names_the_setting_that_accepts_it(strict: bool, make: Callable, check: Callable) -> None:
    contents = {"bad.png": (b"", "bad"), "a.png": (noise(0), "a"), "b.png": (noise(1), "b")}
    code, out, report = check(make(contents), *UNTRIED, f"strict={str(strict).lower()}")
    assert code == strict
    assert any("bad.png" in reason and "strict=false" in reason for reason in report["reasons"]) is strict
    assert ("strict=false" in out) is strict


def test_what_the_crop_cuts_away_is_reported_by_shape(make: Callable, check: Callable) -> None:
    wide = noise(0, 32).crop((0, 0, 32, 16))
    _, out, report = check(make({"a.png": (wide, "a"), "b.png": (noise(1), "b")}), *UNTRIED)
    assert report["pictures"]["buckets"] == {"16x16": [2, 0.25]}
    assert "16x16: 2 pictures; the crop cuts away 25.0%" in out


def test_long_captions_are_reported_once_with_the_choice(make: Callable, check: Callable, tmp_path: Path) -> None:
    contents = {f"{n}.png": (noise(n), "a cat " * (10 if n else 1) + f"number {n}") for n in range(4)}
    code, _, report = check(make(contents), *UNTRIED)
    assert code == 0
    [message] = [warning for warning in report["warnings"] if "cut at" in warning]
    for value in ("3 of 4 captions (75.0%)", "3 pictures", "14 tokens", "8.0", "22", "text_encoder.chunks=2"):
        assert value in message
    assert not warned(check(tmp_path / "source", *UNTRIED, "text_encoder.chunks=2")[2], "cut at")


def test_one_caption_for_most_pictures_is_warned_of(make: Callable, check: Callable) -> None:
    contents = {f"{n}.png": (noise(n), "a photo" if n < 3 else f"number {n}") for n in range(5)}
    assert warned(check(make(contents), *UNTRIED)[2], "3 of 5 pictures have the same caption: 'a photo'")


WITH_AUTOENCODER = ["autoencoder=openmoji", "image_size=64"]


@pytest.mark.parametrize(("scale", "strict"), [(10, True), (0.1, True), (10, False)])
def test_a_wrong_scale_is_refused_or_borne(scale: float, strict: bool, pictures: Path, check: Callable) -> None:
    words = [*WITH_AUTOENCODER, "image_size=16", f"autoencoder.scale={scale}", f"scale_check={str(strict).lower()}"]
    code, _, report = check(pictures, *words)
    assert code == int(strict)
    reported = report["reasons"] if strict else report["warnings"]
    assert any("the latents have a deviation of" in line for line in reported)


def test_an_autoencoder_that_gives_other_pictures_back_is_refused(
    pictures: Path, check: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.autoencoders.autoencoder import KLAutoencoder

    decode = KLAutoencoder.decode
    monkeypatch.setattr(KLAutoencoder, "decode", lambda self, latents: -decode(self, latents))
    code, _, report = check(pictures, *WITH_AUTOENCODER)
    assert code == 1
    assert report["latents"]["psnr"] < 10
    assert any("usually wrong weights" in reason for reason in report["reasons"])


def test_every_contradiction_is_listed_at_once(pictures: Path, check: Callable) -> None:
    words = ["batch_size=5", "micro_batch_size=2", "ema.decay=1", "network.head_size=7", "dtype=int8", "pictures.steps=0"]
    words += ["weighting=min_snr", "weighting.gamma=0", "compile=nothing", "optimizer.lr=-1", "max_time=soon"]
    words += ["checkpoint.every=3", "checkpoint.keep_every=5", "checkpoint.shares=true"]
    code, out, report = check(pictures, *UNTRIED, *words)
    assert code == 1
    reported = "\n".join(report["reasons"])
    for of in (
        *("batch_size=5", "ema.decay=1", "network.head_size=7", "dtype=int8", "gamma=0", "compile=nothing"),
        *("max_time=soon", "checkpoint.keep_every=5", "checkpoint.shares=true"),
    ):
        assert reported.count(of) == 1, of
    assert reported.count("earning rate") + reported.count("optimizer.lr") == 1
    assert "12 pictures: 12 can be used" in out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["image_size=18", "network.patch_size=4"], "pictures of 18x18 pixels: latents of 18x18 do not fit"),
        (["schedule=linear", "schedule.zero_terminal_snr=true"], "undefined on a schedule that ends in pure noise"),
        (["pictures.steps=2000"], "steps=2000 must be from 1"),
        (["crop=buckets", "image_size=20"], "image_size=20 must be a positive multiple of crop.step=64"),
        (["autoencoder=openmoji", "image_size=18"], "multiples of 4"),
        (["background=nothing"], "background"),
        (["cache=/dev/null/none"], ""),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], reason: str, pictures: Path, check: Callable) -> None:
    code, _, report = check(pictures, *UNTRIED, *words)
    assert (code == 1) == bool(reason)
    assert reason in "\n".join(report["reasons"])


@pytest.mark.parametrize(
    "words",
    [
        ["dtype=float32", "image_size=64"],
        ["autoencoder=openmoji", "image_size=64", "crop=random", "text_encoder.trained=false"],
    ],
)
@pytest.mark.slow
def test_the_disk_it_foretells_is_what_the_cache_takes(
    words: list[str], pictures: Path, check: Callable, encode: Callable, tmp_path: Path
) -> None:
    _, _, report = check(pictures, *UNTRIED, *words)
    assert encode(pictures, tmp_path / "cache", *words).code == 0
    sample = {"quality.json", "reconstructions.png"}
    taken = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir() if path.name not in sample)
    assert report["disk"]["total"] == pytest.approx(taken, rel=0.05)
    assert report["disk"]["while_encoding"] > report["disk"]["total"]


def test_a_cache_is_compared(pictures: Path, cache: Path, check: Callable, tmp_path: Path) -> None:
    words = [*UNTRIED, "dtype=float32"]
    code, out, report = check(pictures, *words, f"cache={cache}")
    assert code == 0
    assert f"{cache} holds 12 of these 12 pictures; encoding would add 0 pictures and 0 captions, and drop 0" in out
    code, _, report = check(pictures, *UNTRIED, f"cache={cache}")
    assert code == 1
    assert any("float16" in r for r in report["reasons"])
    assert report["caches"][0]["new_pictures"] == 12
    code, out, _ = check(pictures, *words, f"cache={tmp_path}/none")
    assert code == 0
    assert f"{tmp_path}/none does not exist" in out


def test_a_cache_of_other_pictures_is_compared(make: Callable, cache: Path, check: Callable) -> None:
    code, _, report = check(make({"new.png": (noise(0), "new")}), *UNTRIED, "dtype=float32", f"cache={cache}")
    assert code == 1
    assert any("can no longer be had" in reason for reason in report["reasons"])


def test_an_experiment_finds_its_place(pictures: Path, check: Callable) -> None:
    code, _, report = check(pictures, *UNTRIED, "experiment=openmoji", "batch_size=24", "image_size=16")
    assert code == 0
    assert report["training"]["rows"] == 24


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_lossy_latents_are_warned_of_with_commands_and_shown(
    loss: float, make: Callable, check: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.autoencoders.autoencoder import KLAutoencoder

    encode, encoded = KLAutoencoder.encode, []
    monkeypatch.setattr(KLAutoencoder, "encode", lambda self, images: (encoded.append(images), encode(self, images))[1])
    monkeypatch.setattr(KLAutoencoder, "decode", lambda self, latents: encoded[-1] * (1 - loss) + 1e-3)
    source = make({f"{n}.png": (noise(n, 64), f"number {n}") for n in range(8)})
    code, out, report = check(source, *WITH_AUTOENCODER, "scale_check=false")
    assert code == 0, report["reasons"]
    psnr = report["latents"]["psnr"]
    assert (psnr < 25) is (loss > 0)
    assert psnr > 10
    assert warned(report, f"{psnr:.1f} dB, below 25 dB") is (loss > 0)
    assert (f"ldm-train train_autoencoder source=folder source.path={source} image_size=64" in out) is (loss > 0)
    assert "decoded" not in report
    page = (tmp_path / "report" / "check.html").read_text()
    assert 'id="reconstructions"' in page
    assert page.count("data:image/webp") == 1
