"""Upload an export's folder with its model card to the Hugging Face hub."""

import shlex
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ldm_train.settings.schema.using import ExportSettings
from ldm_train.util.text import first_line
from ldm_train.weights.hub import is_hub_name
from ldm_train.weights.hub_download import HUB_ERRORS

LOGIN = "run `hf auth login`, or set HF_TOKEN to a token that may write"


def refuse_push(settings: ExportSettings) -> None:
    """Raise, before anything is written, if the export cannot be uploaded.

    Raises:
        ValueError: the name is none of a repository, there is no token or the hub refuses it, or the hub cannot be reached.
    """
    if settings.push is None:
        if not settings.push_private:
            raise ValueError("push_private=false has no effect without push=USER/NAME")
        return
    name = settings.push
    if not is_hub_name(name):
        raise ValueError(f"push={name} must be USER/NAME, the name of a repository on the Hugging Face hub")
    if settings.layout in (None, "own"):
        raise ValueError(
            f"push={name} needs layout=diffusers, single_file, lora or controlnet: a model card goes with the weights; "
            "set layout, or leave push out"
        )
    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"push={name} needs a network, and HF_HUB_OFFLINE=1 forbids it; unset it, or leave push out")
    if not get_token():
        raise ValueError(f"push={name} needs a token of the Hugging Face hub: {LOGIN}; nothing was written")
    try:
        HfApi().whoami()
    except HUB_ERRORS as error:
        raise ValueError(
            f"push={name}: {_explain(error)}; nothing was written. Leave push out to write {settings.out} only"
        ) from error


def push_folder(folder: Path, name: str, *, private: bool) -> str:
    """Upload a folder to a repository, which is created if there is none, and return its address.

    Raises:
        ValueError: the hub refuses it; the message says how to upload the folder, which stays.
    """
    api = HfApi()
    try:
        address = str(api.create_repo(name, private=private, exist_ok=True))
        public = private and not api.repo_info(name).private
        if not public:
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload an export of ldm-train")
    except HUB_ERRORS as error:
        raise ValueError(f"push={name}: {_explain(error)}. {_describe_retry(folder, name, private=private)}") from error
    if public:
        raise ValueError(
            f"push={name} exists on the hub and is public, and nothing was uploaded; make it private there, choose another "
            f"name, or set push_private=false. The export in {folder} is complete"
        )
    return address


def _describe_retry(folder: Path, name: str, *, private: bool) -> str:
    """Return the command of huggingface_hub that uploads a folder, in a sentence."""
    command = ["hf", "upload", name, shlex.quote(str(folder)), ".", *(["--private"] if private else [])]
    note = " (which is private only if that makes the repository)" if private else ""
    return f"The export in {folder} is complete; to upload it: {' '.join(command)}{note}"


def _explain(error: BaseException) -> str:
    """Return what went wrong, with what to do about a token."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return f"the hub refuses the token ({status}: {first_line(error)}); {LOGIN}"
    if isinstance(error, HfHubHTTPError | HFValidationError):
        return f"the hub answers {first_line(error)}"
    return f"the hub cannot be reached ({first_line(error)})"
