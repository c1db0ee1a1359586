"""Tar shards: the samples that webdataset sees, read in place, and what is said of those that are cut or damaged."""

import gzip
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.data.sources.items import Item
from ldm_train.data.sources.tar_shards import TarShards
from ldm_train.settings.composition import build
from ldm_train.settings.shipped import shipped_part

Content = bytes | str | dict[str, object]


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def shard(path: Path, members: dict[str, Content] | list[tuple[str, Content]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            content = json.dumps(content) if isinstance(content, dict) else content
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(first: int, count: int) -> dict[str, Content]:
    pairs = [(f"{i:04d}", i) for i in range(first, first + count)]
    return {f"{name}.{ending}": value for name, i in pairs for ending, value in (("png", png(i)), ("txt", f"caption {i}"))}


def items_of(path: object, **settings: object) -> dict[str, Item]:
    items = list(TarShards(path, **settings))  # type: ignore[arg-type]
    assert len({item.key for item in items}) == len(items)
    assert all(item.problem is None or (item.captions == () and item.origin) for item in items)
    return {item.key: item for item in items}


def content_of(item: Item) -> bytes:
    assert item.picture is not None
    assert item.picture.lasting
    return item.picture.read()


def test_pictures_are_read_from_where_they_lie_in_any_order(tmp_path: Path) -> None:
    shard(tmp_path / "s.tar", samples(0, 5))
    items = list(TarShards(str(tmp_path / "s.tar")))
    assert [(item.key, item.captions) for item in items] == [(f"s/{i:04d}", (f"caption {i}",)) for i in range(5)]
    assert [content_of(item) for item in reversed(items)] == [png(i) for i in reversed(range(5))]
    assert items[1].origin == "s.tar, 0001"


def test_samples_are_those_of_webdataset(tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    members: dict[str, Content] = {
        "dir.x/a.PNG": png(1),
        "dir.x/a.txt": "one",
        "b.png": png(2),
        "b.txt": "two",
        "b.json": {"k": 1},
        "__meta__/c.png": png(3),
        "sub/b.png": png(4),
        "sub/b.txt": "three",
        "none": "x",
    }
    path = shard(tmp_path / "s.tar", members)
    with path.open("rb") as stream:
        theirs = [sample for sample in group_by_keys(tar_file_expander([{"url": "", "stream": stream}])) if "png" in sample]
    ours = items_of(str(path))
    assert list(ours) == [f"s/{sample['__key__']}" for sample in theirs]
    assert [content_of(item) for item in ours.values()] == [sample["png"] for sample in theirs]
    assert [item.captions[0].encode() for item in ours.values()] == [sample["txt"] for sample in theirs]


@pytest.mark.parametrize(
    ("members", "captions", "fields"),
    [
        ({"a.txt": "one\ntwo\n"}, ("one", "two"), {}),
        ({"a.caption": "one"}, ("one",), {}),
        ({"a.json": {"text": "one", "width": 3}}, ("one",), {"width": "3"}),
        ({"a.json": {"caption": ["one", "two"]}}, ("one", "two"), {}),
        ({"a.txt": "one", "a.json": {"text": "two", "width": 3}}, ("one",), {"width": "3"}),
        ({"a.txt": " ", "a.caption": "two"}, ("two",), {}),
        ({"a.txt": "\ufeffone", "a.cls": "7"}, ("one",), {}),
    ],
)
def test_captions_and_fields(
    members: dict[str, Content], captions: tuple[str, ...], fields: dict[str, str], tmp_path: Path
) -> None:
    (item,) = items_of(str(shard(tmp_path / "s.tar", {"a.png": png(0), **members}))).values()
    assert (item.captions, item.fields, item.problem) == (captions, fields, None)


def test_settings_choose_members(tmp_path: Path) -> None:
    members: dict[str, Content] = {
        "a.png": png(0),
        "a.seg.png": png(1),
        "a.txt": "x",
        "a.json": {"title": "y", "split": "val"},
    }
    path = str(shard(tmp_path / "s.tar", members))
    (item,) = items_of(path, images=["seg.png"], captions=["json"], caption_column="title").values()
    assert (content_of(item), item.captions, item.held_out) == (png(1), ("y",), True)
    (item,) = items_of(path, captions=["txt"], caption_column="title", prefix="sks ").values()
    assert (item.captions, item.held_out) == (("sks x",), True)


def test_other_members_are_noted(tmp_path: Path) -> None:
    source = TarShards(
        str(
            shard(
                tmp_path / "s.tar", samples(0, 2) | {"0000.cls": "1", "0001.cls": "2", "LICENSE": "", "0000.seg.png": png(0)}
            )
        )
    )
    assert len(list(source)) == 2
    assert source.notes == ["not read as pictures or captions: 2 .cls, 1 file without an extension, 1 .seg.png"]
    assert (source.unread, source.warnings) == ({}, [])


def test_pictures_that_are_not_read_are_counted(tmp_path: Path) -> None:
    """A name has its suffix after the first dot, so that `photo.v1.jpg` is no .jpg."""
    more: dict[str, Content] = {"photo.v1.png": png(0), "b.psd": "", "0000.psd": "", "@eaDir/a.png": png(1)}
    source = TarShards(str(shard(tmp_path / "s.tar", samples(0, 1) | more)))
    assert [item.captions for item in source] == [("caption 0",)]
    assert source.unread == {".v1.png": 1, ".psd": 1}
    (warning,) = source.warnings
    assert "source.images=[" in warning
    assert ",v1.png]" in warning


@pytest.mark.parametrize(("lines", "captions"), [("each", ("one", "two")), ("one", ("one two",))])
def test_lines_are_captions_or_one(lines: str, captions: tuple[str, ...], tmp_path: Path) -> None:
    path = str(shard(tmp_path / "s.tar", {"a.png": png(0), "a.txt": "one\n\ntwo\n"}))
    assert [item.captions for item in items_of(path, lines=lines).values()] == [captions]


@pytest.mark.parametrize(
    "setting",
    [
        "{tmp}/s-*.tar",
        "{tmp}/s-{{0..2}}.tar",
        ["{tmp}/s-0.tar", "{tmp}/s-{{1..2}}.tar"],
        "{tmp}/s-0.tar::{tmp}/s-{{1,2}}.tar",
        "file:{tmp}/s-{{0..2}}.tar",
    ],
)
def test_a_setting_means_shards_as_webdataset_expands_it(setting: str | list[str], tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"s-{number}.tar", samples(0, 2))
    path = [one.format(tmp=tmp_path) for one in setting] if isinstance(setting, list) else setting.format(tmp=tmp_path)
    assert list(items_of(path)) == [f"s-{number}/{i:04d}" for number in range(3) for i in range(2)]


def test_a_config_may_list_shards(tmp_path: Path) -> None:
    path = [str(shard(tmp_path / f"s-{number}.tar", samples(0, 1))) for number in range(2)]
    source = build(shipped_part("source", "webdataset").with_values(path=path), "source")
    assert [item.key for item in source] == ["s-0/0000", "s-1/0000"]


def test_shards_of_one_name_in_two_folders_are_reported_apart(tmp_path: Path) -> None:
    for place in ("a", "b"):
        shard(tmp_path / place / "0.tar", samples(0, 1))
    assert list(items_of(str(tmp_path / "*/0.tar"))) == ["a/0/0000", "b/0/0000"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{tmp}/gone.tar", "the shard {tmp}/gone.tar does not exist"),
        ("{tmp}/s-{{0..1}}.tar", "the shard {tmp}/s-1.tar does not exist"),
        ("{tmp}/gone-*.tar", "source.path={tmp}/gone-*.tar matches no file"),
        ("{tmp}", "source.path={tmp} is a folder; name its shards: 'source.path={tmp}/*.tar'"),
        ("{tmp}/s-{{0.tar", "cannot be expanded: Unbalanced braces"),
        ("${{NOWHERE}}/s.tar", "cannot be expanded: missing environment variable"),
        ([], "source.path is an empty list"),
        (["{tmp}/s-0.tar", "{tmp}/s-*.tar"], "source.path names {tmp}/s-0.tar twice"),
        (
            "https://x.org/s-{{0..1}}.tar",
            "source.path=https://x.org/s-0.tar must be downloaded; set source.download to a folder",
        ),
        ("pipe:cat s.tar", "source.path=pipe:cat s.tar: pipe: runs a program"),
    ],
)
def test_shards_that_are_not_there_are_refused(path: str | list[str], words: str, tmp_path: Path) -> None:
    shard(tmp_path / "s-0.tar", samples(0, 1))
    path = [one.format(tmp=tmp_path) for one in path] if isinstance(path, list) else path.format(tmp=tmp_path)
    with pytest.raises(ValueError, match=re.escape(words.format(tmp=tmp_path))):
        TarShards(path)


def test_no_picture_in_any_shard_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"img.0001.jpg": png(0), "img.0002.jpg": png(1)})
    with pytest.raises(ValueError, match=r"no picture in .*after the first dot of each name.*1 \.0001\.jpg"):
        items_of(str(path))


# What is wrong in a shard

FAULTS: dict[str, tuple[list[tuple[str, Content]], str, str]] = {
    "no picture": ([("a.txt", "x")], "s/a", "s.tar, a holds .txt: no picture"),
    "an array": ([("a.txt", "x"), ("a.npy", "x")], "s/a", "s.tar, a holds .txt: no picture; source.images=[npy] reads"),
    "an array first": ([("a.npy", "x"), ("a.txt", "x")], "s/a", "a holds .txt: no picture; source.images=[npy] reads"),
    "two pictures": (
        [("a.png", png(0)), ("a.jpg", png(0)), ("a.txt", "x")],
        "s/a",
        "2 pictures; choose, as in source.images=[jpg]",
    ),
    "no caption": ([("a.png", png(0))], "s/a", "no caption: s.tar, a has no .txt or .caption or .json"),
    "empty": ([("a.png", png(0)), ("a.txt", "\n")], "s/a", "no caption: s.tar, a.txt is empty"),
    "no UTF-8": ([("a.png", png(0)), ("a.txt", b"\xe9")], "s/a", "s.tar, a.txt is not UTF-8: byte 0xe9 at 0"),
    "binary": ([("a.png", png(0)), ("a.txt", b"a\0")], "s/a", "contains a NUL byte"),
    "json: half": ([("a.png", png(0)), ("a.json", "{")], "s/a", "s.tar, a.json is not JSON"),
    "json: half, next to a text": ([("a.png", png(0)), ("a.txt", "x"), ("a.json", "{")], "s/a", "s.tar, a.json is not JSON"),
    "json: no caption": ([("a.png", png(0)), ("a.json", {"w": 1})], "s/a", "s.tar, a.json has no 'text'; it has w"),
    "twice": ([("a.png", png(0)), ("a.txt", "x"), ("a.txt", "y")], "s:0", "s.tar holds a.txt twice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_reported_and_spare_the_others(fault: str, tmp_path: Path) -> None:
    members, key, words = FAULTS[fault]
    items = items_of(str(shard(tmp_path / "s.tar", [*members, *samples(0, 1).items()])))
    assert set(items) == {key, "s/0000"}
    assert words in str(items[key].problem)
    assert content_of(items["s/0000"]) == png(0)


WHOLE = tarfile.BLOCKSIZE * 4  # of a sample: a header and a block for the picture, and for the caption


@pytest.mark.parametrize(
    ("length", "whole", "words"),
    [
        (2 * WHOLE + 100, 2, "s.tar is cut after 0001.txt"),
        (2 * WHOLE + 512 + 9, 2, "s.tar is cut in the middle of 0002.png"),
        (2 * WHOLE + 3 * 512, 2, "s.tar is cut in the middle of 0002.txt"),
        (3 * WHOLE - 512 + 9, 3, "s.tar cannot be read as a tar after 0002.txt: unexpected end of data"),
        (0, 0, "s.tar cannot be read as a tar after its beginning: empty file"),
        (9, 0, "s.tar cannot be read as a tar after its beginning"),
    ],
)
def test_of_a_shard_that_is_cut_the_whole_samples_are_used(length: int, whole: int, words: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", samples(0, 5))
    path.write_bytes(path.read_bytes()[:length])
    shard(tmp_path / "t.tar", samples(0, 1))
    items = items_of(str(tmp_path / "*.tar"))
    assert [key for key, item in items.items() if item.problem is None] == [*(f"s/{i:04d}" for i in range(whole)), "t/0000"]
    assert items["s:0"].problem is not None
    assert items["s:0"].problem.startswith(words)


def test_wherever_a_shard_is_cut_nothing_wrong_is_read_and_the_cut_is_reported(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", samples(0, 5))
    content = path.read_bytes()
    for length in range(0, 5 * WHOLE + 1024, 251):
        path.write_bytes(content[:length])
        source = TarShards(str(path))
        items = list(source)
        good = [item for item in items if item.problem is None]
        assert len(good) in (length // WHOLE, (length + 512) // WHOLE)  # the last block is mostly padding
        assert [(content_of(item), item.captions) for item in good] == [
            (png(i), (f"caption {i}",)) for i in range(len(good))
        ]
        assert len(items) > len(good) or source.notes or length > 5 * WHOLE


def test_a_shard_that_ends_between_two_members_is_noted(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", samples(0, 5))
    path.write_bytes(path.read_bytes()[: 2 * WHOLE])
    source = TarShards(str(path))
    assert [item.problem for item in source] == [None, None]
    assert source.notes == ["s.tar has no end mark: it may be cut after 0001.txt"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda tar: tar[: 2 * WHOLE] + b"garbage!" * 64 + tar[2 * WHOLE + 512 :], "s.tar is damaged after 0001.txt"),
        (lambda tar: tar + tar, "s.tar has more after its end mark"),
        (gzip.compress, "s.tar is packed with gzip"),
        (lambda tar: b"<html>not found</html>" * 99, "s.tar cannot be read as a tar after its beginning"),
    ],
)
def test_a_damaged_shard_is_reported(spoil: object, words: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", samples(0, 3))
    assert callable(spoil)
    path.write_bytes(spoil(path.read_bytes()))
    problems = [item.problem for item in items_of(str(path)).values() if item.problem]
    assert len(problems) == 1
    assert problems[0].startswith(words)


def test_a_shard_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", samples(0, 1))
    source = TarShards(str(path))
    path.unlink()
    (item,) = source
    assert item.problem == "s.tar cannot be read: No such file or directory"


@pytest.mark.parametrize("name", ["é" * 80, "long/" * 40 + "a", "a\nb", "\udcff"])
def test_names_of_all_kinds_work(name: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {f"./{name}.png": png(7), f"./{name}.txt": "x"})
    (item,) = items_of(str(path)).values()
    assert (item.key, content_of(item), item.problem) == (f"s/{name}", png(7), None)
    assert item.origin.isprintable()


# Shards from elsewhere


def test_shards_are_fetched_once_and_then_read_in_place(tmp_path: Path) -> None:
    for number in range(2):
        shard(tmp_path / f"s-{number}.tar", samples(0, 2))
    source = TarShards(f"pipe:cat {tmp_path}/s-{{0..1}}.tar", download=str(tmp_path / "kept"), commands=True)
    items = list(source)
    assert [item.key for item in items] == ["s-0/0000", "s-0/0001", "s-1/0000", "s-1/0001"]
    for number in range(2):
        (tmp_path / f"s-{number}.tar").unlink()
    assert list(source) == items
    assert content_of(items[-1]) == png(1)
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "served").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_shards_come_over_http(server: str, tmp_path: Path) -> None:
    for place in ("a", "b"):
        shard(tmp_path / "served" / place / "0.tar", samples(0, 1))
    keys = list(items_of(f"{server}/{{a,b}}/0.tar", download=str(tmp_path / "kept")))
    assert len(keys) == 2
    assert all(re.fullmatch(r"0-[0-9a-f]{12}/0000", key) for key in keys)


@pytest.mark.parametrize("url", ["{server}/gone.tar", "pipe:echo half; exit 3", "nowhere://s.tar"])
def test_what_cannot_be_fetched_is_refused_and_leaves_nothing(url: str, server: str, tmp_path: Path) -> None:
    source = TarShards(url.format(server=server), download=str(tmp_path / "kept"), commands=True)
    with pytest.raises(ValueError, match=r"source.path: .* cannot be downloaded"):
        list(source)
    assert list((tmp_path / "kept").iterdir()) == []
