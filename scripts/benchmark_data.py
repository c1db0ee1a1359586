"""What encoding costs in addition to decoding and the autoencoder, and how fast training reads a cache.

    python scripts/benchmark_data.py encode    # the quick start's autoencoder, 1,000 pictures of 512x512
    python scripts/benchmark_data.py large     # an autoencoder of Stable Diffusion's size, 32 such pictures
    python scripts/benchmark_data.py memory    # memory for each picture, from encodings of 10,000 and 30,000 tiny ones
    python scripts/benchmark_data.py read      # 100,000 records in batches of 64: 15 GB in --folder, while it runs

Encoding is measured in CPU seconds, of all threads: reading, decoding and resizing every picture in a loop; the autoencoder
alone on what came out, in the same batches and chunks; and the whole task in this process. Importing and building models,
which each command does once or twice whatever it encodes, is measured apart and not part of the whole. Rounds go by turns.
Reading is measured in processes of their own.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from measuring import cpu_seconds, drawn, status_bytes, write_results
from PIL import Image

from ldm_train.assembly.cache_identity import describe_encoders
from ldm_train.commands.encode import command as encode
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.manifest import Provenance
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.cache.row_places import RowLocation
from ldm_train.data.cache.shards import save_rows
from ldm_train.data.cache.staging import ReusableRows
from ldm_train.data.cache.writer import merge_parts
from ldm_train.data.pictures.crops import CentreCrop
from ldm_train.data.pictures.decoding import decode_picture, render_view
from ldm_train.data.pictures.images import to_signed
from ldm_train.data.scan.scanned_pictures import Scanned, ScannedPictures
from ldm_train.data.scan.survey import Survey
from ldm_train.data.sources.items import Item
from ldm_train.settings.composition import build, compose_as
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.training.encoding import Encoding
from ldm_train.util.safe_json import Json

SIDE, SIZE, BATCH = 512, 256, 16
TINY, COUNTS = 8, (10_000, 30_000)
RECORDS, ROWS, DRAWN = (1_000, 10_000, 100_000), 64, 20_000


def cpu(work: Callable[[], None]) -> float:
    start = cpu_seconds()
    work()
    return cpu_seconds() - start


def draw(folder: Path, pictures: int) -> None:
    """Captioned pictures, half PNG, half JPEG."""
    folder.mkdir()
    for number in range(pictures):
        path = folder / f"{number:05}.{'jpg' if number % 2 else 'png'}"
        drawn(number, SIDE).save(path)
        path.with_suffix(".txt").write_text(f"wave number {number}\n", encoding="utf-8")


def decoded(folder: Path) -> list[torch.Tensor]:
    """All pictures as batches (B, 3, H, W) uint8."""
    crop, images = CentreCrop(SIZE), []
    for path in sorted({*folder.glob("*.png"), *folder.glob("*.jpg")}):
        picture = decode_picture(path.read_bytes())
        [view] = crop((picture.height, picture.width), "")
        images.append(torch.from_numpy(render_view(picture, view)).permute(2, 0, 1))
    return [torch.stack(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]


def models(config: EncodeSettings) -> Encoding:
    """Both models, as often as the task builds them."""
    describe_encoders(config, None, cache=Path(config.cache))
    autoencoder, text_encoder = (build(getattr(config, name), name) for name in ("autoencoder", "text_encoder"))
    return Encoding(autoencoder, text_encoder, dtype=torch.float16).eval()


def whole(words: list[str], cache: Path) -> None:
    """The task itself, in silence."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = encode.run(compose_as(EncodeSettings, [*words, f"cache={cache}"]))
    assert code == 0, said.getvalue()


def encoding(words: list[str], *, pictures: int, rounds: int, room: Path) -> dict[str, object]:
    """CPU seconds of each part and of the whole, per round, and the share of the parts in the whole."""
    few, many = room / "few", room / "many"
    draw(few, 4)
    draw(many, pictures)
    words = [*words, f"image_size={SIZE}", f"batch_size={BATCH}", "trainer.accelerator=cpu", "scale_check=false"]
    whole([f"source.path={few}", *words], room / "warm")
    all_words, found = [f"source.path={many}", *words], []
    for number in range(rounds):
        batches: list[torch.Tensor] = []
        built: list[Encoding] = []

        def decode_all(into: list[torch.Tensor] = batches) -> None:
            into.extend(decoded(many))

        def build_all(into: list[Encoding] = built) -> None:
            into.append(models(compose_as(EncodeSettings, [*all_words, f"cache={room}"])))

        def encode_all(source: list[torch.Tensor] = batches, into: list[Encoding] = built) -> None:
            for images in source:
                into[0].pictures(to_signed(images))

        def run_all(cache: Path = room / f"cache{number}") -> None:
            whole(all_words, cache)

        times = {"whole_s": cpu(run_all)} if number % 2 else {}
        times |= {"decoding_s": cpu(decode_all), "models_s": cpu(build_all), "autoencoder_s": cpu(encode_all)}
        times |= {} if number % 2 else {"whole_s": cpu(run_all)}
        times["share"] = (times["decoding_s"] + times["autoencoder_s"]) / (times["whole_s"] - times["models_s"])
        found.append(times)
        print(", ".join(f"{name} {value:.3f}" for name, value in sorted(times.items())), flush=True)
    medians = {name: statistics.median(times[name] for times in found) for name in found[0]}
    return {"pictures": pictures, **medians, "shares": [times["share"] for times in found]}


def run_encode(arguments: argparse.Namespace, room: Path) -> dict[str, object]:
    words = ["autoencoder=openmoji"]
    return encoding(words, pictures=arguments.pictures or 1000, rounds=arguments.rounds, room=room)


def run_large(arguments: argparse.Namespace, room: Path) -> dict[str, object]:
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    ).save_pretrained(room / "weights")
    words = ["autoencoder=pretrained", f"autoencoder.weights={room / 'weights'}"]
    return encoding(words, pictures=arguments.pictures or 32, rounds=arguments.rounds, room=room)


def run_memory(arguments: argparse.Namespace, room: Path) -> dict[str, object]:
    """Peaks of the memory that no file backs, and what each further picture adds to them."""
    peaks = []
    for count in COUNTS:
        folder = room / str(count)
        folder.mkdir()
        noise = np.random.default_rng(0)
        for number in range(count):
            path = folder / f"{number:06}.png"
            Image.fromarray(noise.integers(0, 256, (TINY, TINY, 3), np.uint8)).save(path)
            path.with_suffix(".txt").write_text(f"a drawing of wave number {number} in blue\n", encoding="utf-8")
        peaks.append(run_child("child_memory", folder)["peak_bytes"])
        print(f"{count:,} pictures: {peaks[-1] / 2**20:.1f} MiB", flush=True)
    each = (peaks[1] - peaks[0]) / (COUNTS[1] - COUNTS[0])
    return {"pictures": COUNTS, "peak_bytes": peaks, "bytes_per_picture": each}


def encode_watched(folder: Path) -> dict[str, float]:
    """The peak of this process's memory that no file backs while it encodes a folder, read every 10 ms."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, status_bytes("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    words = [
        f"source.path={folder}",
        "autoencoder=identity",
        f"image_size={TINY}",
        "trainer.accelerator=cpu",
    ]
    whole(words, folder.with_suffix(".cache"))
    done.set()
    watching.join()
    return {"peak_bytes": peak}


def write_cache(folder: Path, records: int) -> None:
    """A cache of so many records, each with a caption of its own, from a thousand different rows of random values."""
    folder.mkdir()
    survey = Survey(ScannedPictures(_seen(number) for number in range(records)))
    kinds = Provenance({"of": "pictures"}), Provenance({"of": "captions"})
    plan = CachePlan(survey, CentreCrop(SIZE), pictures=kinds[0], captions=kinds[1], bad={})
    random, parts, count = torch.Generator().manual_seed(0), folder / "parts", 1000
    latents = [torch.randn(count, 1, 4, 32, 32, generator=random).half() for _ in range(2)]
    embeddings = torch.randn(count, 77, 768, generator=random).half()
    tokens = torch.randint(0, 49408, (count, 77), generator=random).int()
    parts.mkdir()
    save_rows(dict(zip(("mean", "log_variance"), latents, strict=True)), parts / "latents")
    save_rows({"tokens": tokens, "embeddings": embeddings}, parts / "captions")
    [names] = plan.rows.values()
    places = {name: RowLocation(parts / "latents", n % count) for n, name in enumerate(names)}
    places |= {name: RowLocation(parts / "captions", n % count) for n, name in enumerate(plan.caption_names)}
    settings: Json = {"pictures": dict(kinds[0].settings), "captions": dict(kinds[1].settings)}
    made_by: dict[str, Json] = {"image_size": SIZE, "encoding": settings, "autoencoder": {}, "text_encoder": {}}
    (folder / "cache").mkdir()
    merge_parts(plan, places, ReusableRows(), made_by | {"shift": 0.0, "scale": 1.0, "factor": 8}, folder / "cache")


def _seen(number: int) -> Scanned:
    item = Item(f"{number:07}.png", None, (f"wave number {number}",), "nowhere")
    return Scanned(item, sha256(str(number).encode()).hexdigest(), (SIDE, SIDE))


def read_all(cache: Path, samples: int) -> dict[str, float]:
    """Samples a second in this process, and its memory that no file backs, bytes: opened, and after the reading."""
    data = CachedLatents(LatentCache(cache), batch_size=ROWS)
    data.fetch(torch.arange(ROWS))
    opened, start, used = status_bytes("RssAnon"), time.perf_counter(), cpu_seconds()
    for first in range(0, samples, ROWS):
        data.fetch(torch.arange(first, first + ROWS))
    seconds = time.perf_counter() - start
    figures = {"samples_per_s": samples / seconds, "samples_per_cpu_s": samples / (cpu_seconds() - used)}
    return figures | {"opened_bytes": opened, "after_bytes": status_bytes("RssAnon")}


def run_child(mode: str, folder: Path, pictures: int = 0) -> dict[str, float]:
    """What another process prints last."""
    command = [sys.executable, __file__, mode, "--folder", str(folder), "--pictures", str(pictures)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])


def forget(files: Iterable[Path]) -> None:
    """Out of the page cache, as after a restart."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_read(arguments: argparse.Namespace, room: Path) -> dict[str, object]:
    results: dict[str, object] = {}
    for records in RECORDS if arguments.pictures is None else (arguments.pictures,):
        start, folder = time.perf_counter(), room / str(records)
        write_cache(folder, records)
        files = sorted((folder / "cache").iterdir())
        size = sum(path.stat().st_size for path in files)
        print(f"{records:,} records, {size / 2**30:.1f} GiB, written in {time.perf_counter() - start:.0f} s", flush=True)
        forget(files)
        cold = run_child("child", folder / "cache", min(records, DRAWN))
        subprocess.run(["cat", *files], check=True, stdout=subprocess.DEVNULL)
        warm = [run_child("child", folder / "cache", DRAWN) for _ in range(arguments.rounds)]
        twice = run_child("child", folder / "cache", 2 * records)
        medians = {name: statistics.median(figures[name] for figures in warm) for name in cold}
        results[f"{records} records"] = {"bytes": size, "warm": medians, "cold": cold, "two_epochs": twice}
        for name, figures in (("cold", cold), ("warm", medians), ("two epochs", twice)):
            memory = " then ".join(f"{figures[key] / 2**20:.1f} MiB" for key in ("opened_bytes", "after_bytes"))
            rates = f"{figures['samples_per_s']:9,.0f} samples/s, {figures['samples_per_cpu_s']:9,.0f} per CPU second"
            print(f"  {name:10} {rates}, RssAnon {memory}", flush=True)
    return results


MODES = {"encode": run_encode, "large": run_large, "memory": run_memory, "read": run_read}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=[*MODES, "child", "child_memory"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, help="another number of them, or of records")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="a disk with room")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.mode == "child":
        print(json.dumps(read_all(arguments.folder, arguments.pictures)))
        return
    if arguments.mode == "child_memory":
        print(json.dumps(encode_watched(arguments.folder)))
        return
    cores = len(os.sched_getaffinity(0))
    print(f"torch {torch.__version__}, {arguments.threads} threads on {cores} cores, {arguments.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as room:
        results = MODES[arguments.mode](arguments, Path(room))
    write_results(arguments.out, {"threads": arguments.threads, "cores": cores, "rounds": arguments.rounds, **results})


if __name__ == "__main__":
    main()
