"""The hash of weights on disk: what it knows, and what it must not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ldm_train.weights.fingerprint import digest_files


@pytest.fixture
def folder(tmp_path):
    """Weights and configs, some a level down."""
    root = tmp_path / "weights"
    (root / "vae").mkdir(parents=True)
    (root / "config.json").write_bytes(b"{}")
    (root / "vae" / "model.safetensors").write_bytes(bytes(range(256)))
    (root / "vae" / "model.bin").write_bytes(b"")
    return root


def change_a_byte(folder):
    (folder / "vae" / "model.safetensors").write_bytes(bytes([1, *range(1, 256)]))


def rename(folder):
    (folder / "config.json").rename(folder / "configs.json")


def move(folder):
    (folder / "vae" / "model.bin").rename(folder / "model.bin")


def add(folder):
    (folder / "empty.pt").touch()


def remove(folder):
    (folder / "vae" / "model.bin").unlink()


def move_bytes_from_file_to_file(folder):
    (folder / "vae" / "model.safetensors").write_bytes(bytes(range(1, 256)))
    (folder / "vae" / "model.bin").write_bytes(b"\0")


@pytest.mark.parametrize("change", [change_a_byte, rename, move, add, remove, move_bytes_from_file_to_file])
def test_any_change_of_names_or_bytes_changes_it(folder, change):
    before = digest_files(folder)
    change(folder)
    assert digest_files(folder) != before


def test_what_is_neither_weights_nor_config_does_not_count(folder):
    before = digest_files(folder)
    (folder / "README.md").write_text("words")
    (folder / "samples.pt").mkdir()
    assert digest_files(folder) == before


def test_the_order_of_a_listing_does_not_count(folder, monkeypatch):
    before, listing = digest_files(folder), Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: reversed(list(listing(path, pattern))))
    assert digest_files(folder) == before


def test_the_folder_may_move(folder, tmp_path, monkeypatch):
    before = digest_files(folder)
    folder.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert digest_files(Path("elsewhere")) == before
    monkeypatch.chdir("elsewhere")
    assert digest_files(Path()) == before


def test_a_link_is_the_file_that_it_shows(folder, tmp_path):
    """As the hub's own cache is laid out."""
    before = digest_files(folder)
    (folder / "config.json").rename(tmp_path / "blob")
    (folder / "config.json").symlink_to(tmp_path / "blob")
    assert digest_files(folder) == before


def test_a_single_file_of_any_kind_is_known_by_its_name_and_bytes(tmp_path):
    file = tmp_path / "weights.dat"
    file.write_bytes(b"one")
    one = digest_files(file)
    file.write_bytes(b"two")
    two = digest_files(file)
    renamed = digest_files(file.rename(tmp_path / "others.dat"))
    assert len({one, two, renamed}) == 3
    assert re.fullmatch("[0-9a-f]{64}", one)


def test_it_stays_what_it_was(folder):
    assert digest_files(folder) == "a9570cd0554e6b728872482480a4a893b0406ca8494df3418d5f1391e52e550f"


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_where_nothing_tells_weights_apart_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name} is neither a file nor a folder")):
        digest_files(tmp_path / name)


@pytest.mark.slow
def test_it_needs_no_torch(folder):
    code = f"""
import sys
from pathlib import Path
from ldm_train.weights.fingerprint import digest_files
digest_files(Path({str(folder)!r}))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
