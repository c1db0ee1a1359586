"""Download only the files of one part from the Hugging Face hub."""

from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ldm_train.util.text import first_line

# What a request raises: a refusal, or no answer, which is an OSError only in some versions of the hub's client.
HUB_ERRORS = (HTTPError, OfflineModeIsEnabled, HFValidationError, OSError)
WEIGHT_FILES = (
    "{name}.safetensors",
    "{name}-*.safetensors",
    "{name}.fp16.safetensors",
    "{name}.fp16-*.safetensors",
    "{name}.bin",
)


def download_weights(repository: str, *, setting: str, subfolder: str, name: str) -> Path:
    """Download the weights and settings of one part from a repository, and return the repository's local folder.

    Without a network, return what an earlier download left.

    Args:
        setting: the setting that names the repository, for messages.
        subfolder: the part's folder in a pipeline.
        name: what the part's weight files are called, without suffix.

    Raises:
        ValueError: there is no such repository, or it cannot be reached and was not downloaded before.
    """
    try:
        files = HfApi().list_repo_files(repository)
    except HUB_ERRORS:
        return _find_downloaded(repository, setting=setting)
    try:
        return Path(snapshot_download(repository, allow_patterns=select_files(files, subfolder=subfolder, name=name)))
    except HUB_ERRORS as error:
        raise ValueError(f"{setting}={repository} cannot be downloaded: {first_line(error)}") from error


def select_files(files: list[str], *, subfolder: str, name: str) -> list[str]:
    """Return a repository's settings files, and the part's weight files that match the first pattern of `WEIGHT_FILES`."""
    part = f"{subfolder}/" if any(file.startswith(f"{subfolder}/") for file in files) else ""
    own = [file for file in files if file.startswith(part) and "/" not in file.removeprefix(part)]
    settings = [file for file in own if file.endswith(".json")] + [f for f in files if f.startswith("scheduler/")]
    for pattern in WEIGHT_FILES:
        if found := [file for file in own if fnmatch(file, part + pattern.format(name=name))]:
            return settings + found
    return settings


def _find_downloaded(repository: str, *, setting: str) -> Path:
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, *HUB_ERRORS) as error:
        raise ValueError(
            f"{setting}={repository} is not a file or a folder, and the Hugging Face hub cannot be reached or has no such "
            f"repository. Download it where there is a network (`hf download {repository}`) and set {setting} to its folder"
        ) from error
