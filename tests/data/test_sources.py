"""What all sources have in common: names that are unique, a prefix and a suffix, lasting keys, and their configs."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.data.sources.items import Item, PictureBytes, format_name
from ldm_train.data.sources.source import Source
from ldm_train.settings.composition import build, folder
from ldm_train.settings.shipped import shipped_part

KINDS = ["folder", "class_folders", "kohya", "table", "huggingface", "webdataset"]


class Given(Source):
    """Items as they are given."""

    def __init__(self, *given: Item, prefix: str = "", suffix: str = "") -> None:
        super().__init__(prefix=prefix, suffix=suffix)
        self.given = given

    def items(self) -> Iterator[Item]:
        yield from self.given


def named(*keys: str, **more: object) -> list[Item]:
    return [Item(key, PictureBytes(b""), (f"caption {i}",), key, **more) for i, key in enumerate(keys)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "unique"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a#2", "a#3"]),
        (["a#2", "a", "a"], ["a#2", "a", "a#3"]),
        (["a", "a", "a#2", "a"], ["a", "a#2", "a#2#2", "a#3"]),
    ],
)
def test_a_name_given_twice_is_a_problem_under_a_name_of_its_own(keys: list[str], unique: list[str]) -> None:
    items = list(Given(*named(*keys)))
    assert [item.key for item in items] == unique
    for item, key in zip(items, keys, strict=True):
        assert (item.problem is None) == (item.key == key)
        assert item.key == key or item.problem == f"an earlier picture has the same name {key}"
        assert (item.picture is None) == (item.captions == ()) == (item.problem is not None)


def test_many_of_one_name_take_linear_time() -> None:
    items = list(Given(*named(*["a"] * 20_000)))
    assert len({item.key for item in items}) == 20_000


def test_a_problem_keeps_its_own_words_where_its_name_is_taken() -> None:
    *_, last = Given(*named("a"), Item("a", None, (), "here", problem="broken"))
    assert (last.key, last.problem) == ("a#2", "broken")


def test_prefix_and_suffix_go_around_each_caption() -> None:
    (item,) = Given(Item("a", PictureBytes(b""), ("x", "y"), "a"), prefix="sks, ", suffix="!")
    assert item.captions == ("sks, x!", "sks, y!")


def test_a_split_of_an_unknown_name_is_noted_and_notes_do_not_pile_up() -> None:
    source = Given(*named("a", "b", fields={"split": "gold"}), *named("c"))
    for _ in range(2):
        list(source)
        assert source.notes == [
            "split 'gold' (2) does not hold examples out; these do: dev, held_out, test, val, valid, validation"
        ]


@pytest.mark.parametrize(
    ("name", "on_screen"),
    [("à/b.png", "à/b.png"), ("a\nb", "a\\nb"), ("\udcff.png", "\\udcff.png"), ("\x1b[1m", "\\x1b[1m")],
)
def test_names_are_shown_on_one_line(name: str, on_screen: str) -> None:
    assert format_name(name) == on_screen


def make_folder(path: Path) -> Path:
    Image.new("RGB", (2, 2)).save(path / "a.png")
    (path / "a.txt").write_text("x")
    return path


def make_classes(path: Path) -> Path:
    (path / "x").mkdir()
    Image.new("RGB", (2, 2)).save(path / "x/a.png")
    return path


def make_kohya(path: Path) -> Path:
    (path / "10_x").mkdir()
    Image.new("RGB", (2, 2)).save(path / "10_x/a.png")
    return path


def make_table(path: Path) -> Path:
    Image.new("RGB", (2, 2)).save(path / "a.png")
    (path / "t.csv").write_text("file_name,text\na.png,x\n")
    return path / "t.csv"


def make_parquet(path: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    Image.new("RGB", (2, 2)).save(path / "a.png")
    image = {"bytes": (path / "a.png").read_bytes(), "path": None}
    parquet.write_table(pyarrow.table({"image": [image], "text": ["x"]}), path / "t.parquet")
    return path / "t.parquet"


def make_tar(path: Path) -> Path:
    import tarfile

    make_folder(path)
    with tarfile.open(path / "s.tar", "w") as tar:
        tar.add(path / "a.png", "a.png")
        tar.add(path / "a.txt", "a.txt")
    return path / "s.tar"


MAKE: list[Callable[[Path], Path]] = [make_folder, make_classes, make_kohya, make_table, make_parquet, make_tar]


@pytest.mark.parametrize(("kind", "make"), list(zip(KINDS, MAKE, strict=True)))
def test_each_kind_is_built_of_its_config_and_reads_the_same_twice_under_lasting_names(
    kind: str, make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"cache_dir": str(tmp_path / "cache")} if kind == "huggingface" else {}
    source = build(shipped_part("source", kind).with_values(path=str(make(tmp_path)), **more), "source")
    assert isinstance(source, Source)
    items = list(source)
    assert [item.captions for item in items] == [("x",)]
    assert [item.problem for item in items] == [None]
    assert all(item.picture is not None and item.picture.read() == item.picture.read() for item in items)
    assert not any(str(tmp_path) in item.key for item in items)
    assert [(item.key, item.captions, item.fields) for item in source] == [(i.key, i.captions, i.fields) for i in items]


def test_all_kinds_have_a_config() -> None:
    assert sorted(path.stem for path in (folder() / "source").glob("*.yaml")) == sorted(KINDS)


@pytest.mark.slow
def test_libraries_are_not_imported_before_they_are_needed() -> None:
    modules = ", ".join(f"ldm_train.data.sources.{name}" for name in ("folder", "table", "huggingface", "tar_shards"))
    check = f"import sys, {modules}; print({{'torch', 'datasets', 'webdataset', 'pyarrow', 'PIL'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "set()\n"
