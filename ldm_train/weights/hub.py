"""A name on the Hugging Face hub to a folder on this machine, with the files of one part alone."""

import re
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

FILES = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}
WEIGHTS = (
    "{name}.safetensors",
    "{name}-*.safetensors",
    "{name}.fp16.safetensors",
    "{name}.fp16-*.safetensors",
    "{name}.bin",
)


def locate(weights: str, *, setting: str, subfolder: str, name: str) -> Path:
    """Where weights lie that a setting names: a file or folder here, or a name on the hub, downloaded; see `download`.

    Raises:
        ValueError: nowhere.
    """
    if Path(weights).exists():
        return Path(weights)
    if not is_hub_name(weights):
        raise ValueError(f"{setting}={weights} is neither a file nor a folder here, nor a name on the hub (owner/name)")
    return download(weights, setting=setting, subfolder=subfolder, name=name)


def is_hub_name(weights: str) -> bool:
    """Whether it can be one (owner/name), and is no file's."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", weights)) and Path(weights).suffix not in FILES


def download(repository: str, *, setting: str, subfolder: str, name: str) -> Path:
    """The folder of a repository's files, of which one part's weights and the settings are here.

    Args:
        setting: that names the repository, for messages.
        subfolder: of the part in a pipeline.
        name: of the part's files of weights.

    Raises:
        ValueError: no such repository, or none that can be reached.
    """
    try:
        files = HfApi().list_repo_files(repository)
    except (OfflineModeIsEnabled, HFValidationError, HfHubHTTPError, OSError):
        return _local(repository, setting=setting)
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted(files, subfolder=subfolder, name=name)))
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"{setting}={repository} cannot be downloaded: {str(error).strip().splitlines()[0]}") from error


def wanted(files: list[str], *, subfolder: str, name: str) -> list[str]:
    """Of a repository's files: the settings, and the part's weights of the first kind that is there."""
    part = f"{subfolder}/" if any(file.startswith(f"{subfolder}/") for file in files) else ""
    own = [file for file in files if file.startswith(part) and "/" not in file.removeprefix(part)]
    settings = [file for file in own if file.endswith(".json")] + [f for f in files if f.startswith("scheduler/")]
    for pattern in WEIGHTS:
        if found := [file for file in own if fnmatch(file, part + pattern.format(name=name))]:
            return settings + found
    return settings


def _local(repository: str, *, setting: str) -> Path:
    """What an earlier download left."""
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{setting}={repository} is neither a file nor a folder here, and the hub is out of reach or has no such name; "
            f"download it where there is a network (`hf download {repository}`) and give the folder"
        ) from error
