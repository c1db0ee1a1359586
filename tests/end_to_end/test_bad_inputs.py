"""A folder of all that can be wrong with pictures, names and captions: each is used or named, none stops the run."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.data.cache.reader import LatentCache
from tests.data.bad_pictures import bad_pictures, cases

CAPTIONS: dict[str, tuple[bytes, str | None]] = {
    "empty": (b"", "no caption"),
    "blank": (b" \n\t\n", "no caption"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\xff", "UTF-8"),
    "null byte": (b"a cat\x00", "NUL"),
    "latin-1": ("ein Bär".encode("latin-1"), "UTF-8"),
    "100,000 characters": (b"word " * 20_000, None),
    "one long word": (b"x" * 100_000, None),
    "byte order mark": (b"\xef\xbb\xbfa cat", None),
    "emoji": ("🐈‍⬛ مرحبا".encode(), None),
    "several": (b"one\n\ntwo\r\nthree\n", None),
}
NAMES = [
    "with\nnewline.png",
    "with 'quotes\".png",
    "-o.png",
    "{a:b}.png",
    "ünï.png",
    os.fsdecode(b"latin-\xe9.png"),
    "a,b;c.png",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The folder, each key's expected reason (None: it must be used), and a good picture's bytes."""
    path, expected = tmp_path_factory.mktemp("bad"), {}
    good = next(case.content for case in cases() if case.reason is None and case.name.startswith("png"))
    files: dict[str, tuple[bytes, bytes | None, str | None]] = {}
    for name, (content, reason) in bad_pictures().items():
        files[name if Path(name).suffix in (".png", ".jpg") else f"{name}.png"] = (content, b"a picture", reason)
    for name, (caption, reason) in CAPTIONS.items():
        files[f"caption {name}.png"] = (good, caption, reason)
    for name in NAMES:
        files[name] = (good, b"a strange name", None)
    files["no caption.png"] = (good, None, "no caption")
    for name, (content, caption, reason) in files.items():
        (path / name).write_bytes(content)
        if caption is not None:
            (path / name).with_suffix(".txt").write_bytes(caption)
        expected[name] = reason
    (path / "loop.png").symlink_to(path / "loop.png")
    (path / "loop.txt").write_bytes(b"a loop")
    (path / "deep").mkdir()
    (path / "deep" / "up").symlink_to(path)
    return {"path": path, "expected": expected | {"loop.png": "cannot be read", "deep/up": "leads back to the folder"}}


def test_everything_is_used_or_named(folder: dict, encode: Callable, train: Callable, tmp_path: Path) -> None:
    answer = encode(folder["path"], tmp_path / "cache")
    assert answer.code == 0, answer.err
    assert "Traceback" not in answer.out + answer.err
    used = {entry.key for entry in LatentCache(tmp_path / "cache").entries}
    report = json.loads((tmp_path / "cache/report.json").read_text())
    problems = {reported["key"]: reported["problem"] for reported in report["left_out"]}
    expected = folder["expected"]
    assert len(expected) > 100
    assert used | problems.keys() == expected.keys()
    assert not used & problems.keys()
    assert {key for key in used if expected[key] is not None} == set()
    assert {key for key in problems if expected[key] is None} == set()
    for key, problem in problems.items():
        assert "\n" not in problem
        assert expected[key].lower() in problem.lower(), (key, problem)
    answer = train(tmp_path / "cache", tmp_path / "run", "max_steps=1")
    assert answer.code == 0, answer.err
