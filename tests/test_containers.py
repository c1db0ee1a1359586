"""The Dockerfile and compose.yaml name files, folders, build arguments and programs that are there."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
INSTRUCTIONS = [(line.split()[0], line.split(maxsplit=1)[1]) for line in LINES if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
KNOWN = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "ENTRYPOINT", "CMD"}


def copied() -> list[str]:
    return [source for name, words in INSTRUCTIONS if name == "COPY" for source in words.split()[:-1]]


def test_every_file_that_is_copied_is_there_and_in_the_build_s_context() -> None:
    assert {name for name, _ in INSTRUCTIONS} <= KNOWN
    first, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("**")]
    assert first == "*"
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, line.removeprefix("!")) for line in kept), source
    assert {line.removeprefix("!") for line in kept} == {*copied()}


def test_what_installing_needs_is_copied_before_it() -> None:
    """Packages, their configs, and the files that pyproject.toml names."""
    needed = {Path(folder).parts[0] for folder in PROJECT["tool"]["setuptools"]["package-dir"].values()}
    needed |= {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "constraints.txt"}
    assert needed == {*copied()}
    order = [words for name, words in INSTRUCTIONS if name in ("COPY", "RUN")]
    last_copy = max(index for index, words in enumerate(order) if words.endswith(("ldm_train", "conf")))
    assert any("pip install" in words and "EXTRAS" in words for words in order[last_copy + 1 :])


def test_build_arguments_and_extras_are_known() -> None:
    arguments = dict(words.split("=") for name, words in INSTRUCTIONS if name == "ARG")
    assert arguments["EXTRAS"] in PROJECT["project"]["optional-dependencies"]
    assert arguments["TORCH"] == "cuda"
    for service in SERVICES.values():
        assert {*service["build"]["args"]} <= {*arguments}
        assert service["build"]["args"]["TORCH"] in ("cpu", "cuda")


def test_services_share_the_folders_of_the_image() -> None:
    [home] = [words for name, words in INSTRUCTIONS if name == "WORKDIR" and words == "/ldm"]
    for name, service in SERVICES.items():
        assert {volume.partition(":")[2] for volume in service["volumes"]} == {
            f"{home}/{folder}" for folder in ("data", "caches", "outputs")
        }, name
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"/data/", "/caches/", "/outputs/"} <= {*ignored}
    assert [words for name, words in INSTRUCTIONS if name == "ENTRYPOINT"] == ['["ldm-train"]']
    assert "ldm-train" in PROJECT["project"]["scripts"]


def test_tensorboard_is_for_this_machine_and_gpus_for_one_service() -> None:
    tensorboard = SERVICES["tensorboard"]
    assert tensorboard["entrypoint"][0] == "tensorboard"
    assert any(re.match("tensorboard\\b", one) for one in PROJECT["project"]["dependencies"])
    assert all(port.startswith("127.0.0.1:") for port in tensorboard["ports"])
    assert [name for name, service in SERVICES.items() if "deploy" in service] == ["gpu"]
