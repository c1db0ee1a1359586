"""What an export refuses before it writes anything."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("layout", ["single_file", "lora"])
def test_what_has_no_place_in_a_layout_is_refused(layout: str, trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("export", f"run_dir={trained}", f"out={tmp_path}/out", f"layout={layout}")
    assert answer.code == 1
    expected = "network.patch_size=2" if layout == "single_file" else "layout=lora needs a run with adapters"
    assert expected in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("layout=diffusers", "out={tmp}/a.safetensors"), "must be a folder with layout=diffusers"),
        (("layout=diffuser",), "layout=diffuser is not known"),
        (("layout=diffusers", "lora_format=kohya"), "lora_format=kohya has no effect with layout=diffusers"),
        (("layout=lora", "merge=true"), "merge=true has no effect with layout=lora"),
        (("out={tmp}/a.safetensors", "dtype=float16"), "dtype=float16 has no effect without layout="),
        (("layout=diffusers", "weights=best"), "weights=best cannot be exported"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    words: tuple[str, ...], message: str, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = ldm_train("export", f"run_dir={trained}", f"out={tmp_path}/out", *(word.format(tmp=tmp_path) for word in words))
    assert answer.code == 1
    assert message in answer.err
    assert list(tmp_path.iterdir()) == []
