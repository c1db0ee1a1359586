"""Of a repository on the hub one part's weights are fetched, once, and nothing else."""

from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from ldm_train.weights import hub, hub_download

PIPELINE = [
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "v1-5-pruned.ckpt",
]
SHARDS = ["unet/config.json", *(f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2))]
PART = {"setting": "network.weights", "subfolder": "unet", "name": "diffusion_pytorch_model"}


@pytest.mark.parametrize(
    ("files", "subfolder", "expected"),
    [
        (PIPELINE, "unet", ["unet/config.json", "scheduler/scheduler_config.json", PIPELINE[4]]),
        (PIPELINE, "vae", ["vae/config.json", "scheduler/scheduler_config.json", "vae/diffusion_pytorch_model.bin"]),
        ([name for name in PIPELINE if name != PIPELINE[4]], "unet", [*PIPELINE[3:4], PIPELINE[2], PIPELINE[5]]),
        ([*SHARDS, "unet/diffusion_pytorch_model.safetensors.index.json"], "unet", None),
        (["config.json", "diffusion_pytorch_model.safetensors"], "vae", None),
    ],
    ids=["the network", "the autoencoder", "half precision alone", "shards", "a part by itself"],
)
def test_a_part_s_weights_are_fetched_once(files, subfolder, expected):
    wanted = hub_download.select_files(files, subfolder=subfolder, name="diffusion_pytorch_model")
    assert sorted(wanted) == sorted(expected or files)


def test_raw_weights_are_fetched_by_their_own_name():
    wanted = hub_download.select_files(PIPELINE, subfolder="unet", name="diffusion_pytorch_model.non_ema")
    assert wanted == ["unet/config.json", "scheduler/scheduler_config.json", PIPELINE[6]]


def test_a_name_is_fetched_and_its_folder_given(monkeypatch, tmp_path):
    asked = {}

    def fetch(repository, *, allow_patterns):
        asked[repository] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(hub_download.HfApi, "list_repo_files", lambda self, repository: PIPELINE)
    monkeypatch.setattr(hub_download, "snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    assert hub.locate_weights("owner/name", **PART) == tmp_path
    assert "unet/diffusion_pytorch_model.safetensors" in asked["owner/name"]


def test_a_fetch_that_fails_is_reported(monkeypatch):
    class FailedError(HfHubHTTPError):
        def __init__(self) -> None:
            Exception.__init__(self, "503 for everybody")

    def fail(*_, **__):
        raise FailedError

    monkeypatch.setattr(hub_download.HfApi, "list_repo_files", lambda self, repository: PIPELINE)
    monkeypatch.setattr(hub_download, "snapshot_download", fail)
    with pytest.raises(ValueError, match=r"network\.weights=owner/name cannot be downloaded: 503 for everybody"):
        hub.locate_weights("owner/name", **PART)


def test_offline_what_was_fetched_before_is_taken(monkeypatch, tmp_path):
    def offline(self, repository):
        raise OfflineModeIsEnabled

    monkeypatch.setattr(hub_download.HfApi, "list_repo_files", offline)
    monkeypatch.setattr(hub_download, "snapshot_download", lambda repository, *, local_files_only: str(tmp_path))
    assert hub.locate_weights("owner/name", **PART) == Path(tmp_path)


def test_without_a_network_an_earlier_download_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[str]:
        raise HTTPError("no answer")

    monkeypatch.setattr(hub_download.HfApi, "list_repo_files", fail)
    monkeypatch.setattr(hub_download, "snapshot_download", lambda name, local_files_only: str(tmp_path))
    assert hub_download.download_weights("me/model", setting="network.weights", subfolder="unet", name="x") == tmp_path
