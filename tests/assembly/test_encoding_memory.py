"""What encoding takes at its peak is estimated from sizes, and refused before a picture is decoded where it is not there."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm_train.assembly import encoding_memory
from ldm_train.assembly.encoding_memory import EncodingMemory, estimate_encoding_memory, find_memory_problem
from ldm_train.autoencoders.autoencoder import IdentityAutoencoder, NewKLAutoencoder
from ldm_train.data.cache.encoding_batches import CaptionRow, EncodingBatch, PictureRow
from ldm_train.data.pictures.crops import CentreCrop
from ldm_train.types import Autoencoder
from tests.data.folders import captioned

GIB = 2**30
CPU = torch.device("cpu")


def estimate(
    autoencoder: Autoencoder | None = None, *, image_size: int = 64, batch_size: int = 16, workers: int = 0, side: int = 100
) -> EncodingMemory:
    row = PictureRow("a", "0" * 64, "a.png", [side, side])
    batches = [EncodingBatch("", [row], []), EncodingBatch("", [], [CaptionRow("b", "x")])]
    crop = CentreCrop(image_size=image_size)
    return estimate_encoding_memory(
        autoencoder or IdentityAutoencoder(), batches, crop, batch_size=batch_size, workers=workers, device=CPU
    )


def test_it_grows_with_what_it_is_for() -> None:
    one = estimate()
    assert estimate(batch_size=32).batches == 2 * one.batches
    assert estimate(image_size=128).batches == 4 * one.batches
    assert estimate(workers=2).batches > one.batches
    assert estimate(workers=2).pictures == 2 * one.pictures
    assert estimate(side=200).pictures == 4 * one.pictures
    assert estimate(side=200).batches == one.batches


def test_activations_are_those_of_the_encoder() -> None:
    small, large = (estimate(NewKLAutoencoder([width, width], groups=4)) for width in (8, 32))
    assert estimate().activations == 0
    assert large.activations > 3 * small.activations > 0
    assert estimate(NewKLAutoencoder([8, 8], groups=4), image_size=128).activations == pytest.approx(4 * small.activations)


def test_nothing_is_needed_for_captions_only() -> None:
    batches = [EncodingBatch("", [], [CaptionRow("b", "x")])]
    crop = CentreCrop(image_size=64)
    memory = estimate_encoding_memory(IdentityAutoencoder(), batches, crop, batch_size=16, workers=0, device=CPU)
    assert memory.machine == 0


def test_a_machine_of_unknown_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = estimate(batch_size=10**6, image_size=4096)
    monkeypatch.setattr(encoding_memory, "machine_memory", lambda: 64 * GIB)
    problem = find_memory_problem(memory, batch_size="batch_size=1000000", device=CPU)
    assert problem is not None
    assert "batch_size=1000000" in problem
    assert "64.0 GiB" in problem
    monkeypatch.setattr(encoding_memory, "machine_memory", lambda: None)
    assert find_memory_problem(memory, batch_size="batch_size=1000000", device=CPU) is None


def test_encode_refuses_a_batch_that_does_not_fit(
    pictures: Path, encode: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding_memory, "machine_memory", lambda: GIB)
    answer = encode(pictures, tmp_path / "cache", "batch_size=1000000")
    assert answer.code == 1
    assert "batch_size=1000000" in answer.err
    assert "1.0 GiB" in answer.err
    assert not (tmp_path / "cache" / "manifest.json").exists()
    assert encode(pictures, tmp_path / "cache", "batch_size=1000").code == 0


@pytest.mark.slow
def test_the_estimate_is_near_what_encoding_takes(tmp_path: Path) -> None:
    """The difference between two peaks, so that what is imported does not count."""
    Image.effect_noise((512, 512), 50).convert("RGB").save(captioned(tmp_path / "a" / "a.png"))
    taken = {}
    for size in (2, 128):
        words = [
            "encode",
            f"source.path={tmp_path / 'a'}",
            f"cache={tmp_path / str(size)}",
            "image_size=512",
            f"batch_size={size}",
        ]
        script = (
            "import sys\nfrom ldm_train.cli.main import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
            "    print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
        )
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=300)
        taken[size] = 1024 * int(done.stdout.split()[-1])
    expected = [estimate(image_size=512, batch_size=size, side=512).batches for size in taken]
    assert 0.5 < (taken[128] - taken[2]) / (expected[1] - expected[0]) < 2
