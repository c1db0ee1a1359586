"""YAML is read as OmegaConf reads it, by libyaml's parser or without it."""

from pathlib import Path
from types import ModuleType

import omegaconf._utils
import pytest
import yaml
from omegaconf import OmegaConf

from ldm_train.settings import safe_yaml
from ldm_train.settings.safe_yaml import fast_loader, read_yaml

TEXTS = {
    "empty": "",
    "comment": "# nothing\n",
    "list": "[1, 2.5, 1e3, yes, on, null, ~, 0x1F, 1_000, .inf]\n",
    "mapping": "a: 1e-3\nb: {c: [x, 'y', \"z\"]}\nd: 2026-01-02\ne: 1:30\n",
    "alias": "a: &one {b: 1}\nc: *one\n",
    "text": "|\n  a: 1\n  b: 2\n",
    "word": "word\n",
    "number": "5\n",
    "twice": "a: 1\na: 2\n",
    "open": "{a: [1\n",
}


def answer(path: Path) -> object:
    try:
        return OmegaConf.to_container(read_yaml(path), resolve=False)
    except ValueError:
        return ValueError


@pytest.mark.parametrize("name", TEXTS)
def test_both_ways_read_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(TEXTS[name])
    assert fast_loader() is not None
    fast = answer(path)
    monkeypatch.setattr(safe_yaml, "fast_loader", lambda: None)
    assert repr(answer(path)) == repr(fast)


@pytest.mark.parametrize("missing", [(yaml, "__with_libyaml__"), (omegaconf._utils, "get_yaml_loader")])
def test_another_version_without_the_parts_has_no_fast_way(
    missing: tuple[ModuleType, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing[0] is yaml:
        monkeypatch.setattr(*missing, False)
    else:
        monkeypatch.delattr(*missing)
    assert fast_loader.__wrapped__() is None
