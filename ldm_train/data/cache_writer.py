"""Writing a cache: beside the old one, under another name, and put in its place when it is whole."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_train.data.cache import FORMAT, Entry, Json, Manifest, file_digest
from ldm_train.data.sources import Item


class CacheWriter:
    """Collects parts of encoded batches in `CACHE.writing` and merges them.

    Args:
        folder: where the finished cache will lie.

    Raises:
        ValueError: something lies there that is no cache, which replacing would destroy.
    """

    def __init__(self, folder: Path) -> None:
        if (
            folder.exists()
            and not (folder / "manifest.json").is_file()
            and not (folder.is_dir() and not any(folder.iterdir()))
        ):
            raise ValueError(f"cache={folder} is there and is no latent cache; nothing was touched, choose another folder")
        self.folder = folder
        self.writing = folder.with_name(folder.name + ".writing")

    def start(self) -> None:
        """Clear what an interrupted encoding left."""
        shutil.rmtree(self.writing, ignore_errors=True)
        (self.writing / "parts").mkdir(parents=True)

    def write_part(self, number: int, moments: dict[str, Tensor], digests: Sequence[str], problems: dict[str, str]) -> None:
        """One batch: its moments (rows, C, H, W), a digest per row ("" where there is no picture), the problems by key."""
        part = self.writing / "parts" / f"{number:08d}"
        _save(moments, part.with_suffix(".safetensors"))
        part.with_suffix(".json").write_text(json.dumps({"digests": list(digests), "problems": problems}), encoding="utf-8")

    def finish(
        self,
        batches: Sequence[Sequence[Item]],
        left_out: dict[str, str],
        captions: Sequence[str],
        caption_tensors: dict[str, Tensor],
        made_by: dict[str, Json],
    ) -> Manifest:
        """Merge the parts of these batches into a cache, put it in place, and give its manifest.

        Args:
            left_out: keys and problems known before encoding.
            captions: every distinct caption, "" first; `caption_tensors` go with them.
            made_by: the manifest's settings.

        Raises:
            ValueError: no picture could be encoded; the old cache stays.
        """
        numbers = {caption: number for number, caption in enumerate(captions)}
        entries: list[Entry] = []
        rows: dict[str, list[Tensor]] = {}
        problems = dict(left_out)
        for number, batch in enumerate(batches):
            part = self.writing / "parts" / f"{number:08d}"
            tensors = load_file(part.with_suffix(".safetensors"))
            told = json.loads(part.with_suffix(".json").read_text(encoding="utf-8"))
            problems |= told["problems"]
            height, width = tensors["mean"].shape[-2:]
            for row, (item, digest) in enumerate(zip(batch, told["digests"], strict=True)):
                if digest:
                    place = len(rows.setdefault("mean", []))
                    for name, tensor in tensors.items():
                        rows.setdefault(name, []).append(tensor[row])
                    entries.append(
                        Entry(
                            key=item.key,
                            picture=digest,
                            bucket=f"{height}x{width}",
                            row=place,
                            captions=[numbers[caption] for caption in item.captions],
                            held_out=item.held_out,
                            fields=item.fields,
                        )
                    )
        self._write_lines("report.json", [json.dumps(_report(len(entries), problems), indent=2)])
        if not entries:
            raise ValueError(f"no picture could be encoded, {self.writing / 'report.json'} says why; {self.folder} stays")
        stacked = {name: torch.stack(tensors) for name, tensors in rows.items()}
        _save(stacked, self.writing / f"latents-{entries[0].bucket}.safetensors")
        _save(caption_tensors, self.writing / "captions.safetensors")
        self._write_lines("captions.jsonl", [json.dumps(caption) for caption in captions])
        self._write_lines("entries.jsonl", [json.dumps(asdict(entry)) for entry in entries])
        shutil.rmtree(self.writing / "parts")
        means = stacked["mean"].float()
        manifest = Manifest(
            **made_by,  # type: ignore[arg-type]
            format=FORMAT,
            channels=means.shape[1],
            entries=len(entries),
            held_out=sum(entry.held_out for entry in entries),
            captions=len(captions),
            mean=means.mean((0, 2, 3)).tolist(),
            std=means.std((0, 2, 3)).tolist(),
            files={path.name: file_digest(path) for path in sorted(self.writing.iterdir())},
        )
        self._write_lines("manifest.json", [manifest.text().rstrip()])
        self._put_in_place()
        return manifest

    def _write_lines(self, name: str, lines: Sequence[str]) -> None:
        with (self.writing / name).open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def _put_in_place(self) -> None:
        old = self.folder.with_name(self.folder.name + ".old")
        if self.folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.folder.rename(old)
        self.writing.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(f"cannot write {path} ({free:.0f} MiB are free there): {error}; an older cache stays") from error


def _report(used: int, problems: dict[str, str]) -> dict[str, Json]:
    left_out: list[Json] = [{"key": key, "problem": problem} for key, problem in sorted(problems.items())]
    return {"used": used, "left_out": left_out}
