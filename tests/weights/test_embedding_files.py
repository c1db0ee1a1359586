"""Files of words' vectors: what is none is refused by name, and nothing in it is run."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from ldm_train.weights.embedding_files import read_embeddings


class Runs:
    """What would make a file where it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("ending", ["bin", "pt"])
def test_code_is_refused_by_its_name_and_not_run(ending: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / f"toy.{ending}"
    content = {"string_to_param": {"*": torch.zeros(1, 8)}, "name": "toy", "more": Runs(tmp_path / "mark")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"toy\.{ending} .*\w+\.system"):
        read_embeddings(path)
    assert not (tmp_path / "mark").exists()


def test_what_grows_on_unpacking_is_refused(tmp_path: Path) -> None:
    torch.save({"toy": torch.zeros(1, 8)}, tmp_path / "honest.pt")
    with (
        zipfile.ZipFile(tmp_path / "honest.pt") as honest,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as x,
    ):
        for entry in honest.infolist():
            x.writestr(entry.filename, honest.read(entry))
    with pytest.raises(ValueError, match=r"x\.pt .* bytes"):
        read_embeddings(tmp_path / "x.pt")


@pytest.mark.slow
def test_the_way_to_safetensors_that_is_reported_leads_there(tmp_path: Path) -> None:
    """The first textual inversions are of a class that a reader would have to trust."""
    rows = torch.randn(2, 8)
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)})
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}, tmp_path / "toy.pt")
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.container\.ParameterDict") as refused:
        read_embeddings(tmp_path / "toy.pt")
    code = str(refused.value).split('python -c "')[1].rpartition('"')[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert_close(read_embeddings(tmp_path / "toy.safetensors"), {"toy": rows}, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}, ".*clip_g, clip_l, .*Stable Diffusion XL"),
        ({"toy": torch.zeros(1, 8, dtype=torch.int64)}, r".*toy.*torch\.int64, \(1, 8\)"),
        ({"toy": torch.zeros(1, 2, 8)}, r".*toy.*torch\.float32, \(1, 2, 8\)"),
        ({"toy": "text"}, ".*toy.*str"),
        ({"toy": torch.zeros(1, 8), "step": 3}, ".*step.*int"),
        ({"string_to_param": {}, "name": "toy"}, ".*vectors"),
        ({"string_to_param": torch.zeros(8), "name": "toy"}, ".*vectors"),
        ([torch.zeros(1, 8)], ".*vectors"),
        ({}, ".*vectors"),
    ],
)
def test_what_holds_something_else_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=rf"x\.pt {message}"):
        read_embeddings(tmp_path / "x.pt")


def test_of_stable_diffusion_xl_in_safetensors_too(tmp_path: Path) -> None:
    save_file({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors .*clip_g, clip_l.*Stable Diffusion XL"):
        read_embeddings(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["nowhere.safetensors", "x.png", "."])
def test_what_is_no_file_of_vectors_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / name))}.*\.safetensors, \.bin or \.pt"):
        read_embeddings(tmp_path / name)
