"""An encoding that is killed and started again: the short version of scripts/chaos_encode.py, in real processes."""

from pathlib import Path

import numpy as np
import pytest

from ldm_train.data.cache.shards import load_rows

SCRIPTS = Path(__file__).parents[2] / "scripts"


MAPS = ("source.maps={depth:../depth/{stem}.npy}", "conditions=[{map:{name:depth,channels:2}}]")


HOLES = ("conditions=[{inpaint:{masks:2}}]",)
SMALL = ("conditions=[{low_resolution:{factor:2}}]",)


@pytest.mark.parametrize("words", [(), MAPS, HOLES, SMALL], ids=["pictures", "maps", "holes", "small pictures"])
@pytest.mark.slow
def test_a_killed_encoding_ends_with_the_bytes_of_an_undisturbed_one(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from chaos_encode import Encoding, digests, draw, moment

    draw(tmp_path / "pictures", 60)
    (tmp_path / "depth").mkdir()
    for number, path in enumerate(sorted((tmp_path / "pictures").glob("0*"))):
        np.save(tmp_path / f"depth/{path.stem}.npy", np.full((64, 64, 2), number, dtype=np.uint8))
    undisturbed = Encoding(tmp_path / "pictures", tmp_path / "undisturbed", 1, words)
    assert undisturbed.finish().code == 0
    killed = Encoding(tmp_path / "pictures", tmp_path / "killed", 1, words)
    assert killed.kill(moment(killed, "encoding", 5))
    kept = len(killed.listed("parts"))
    ended = killed.finish()
    assert ended.code == 0, ended.said
    assert ended.encoded < 60 - 4 * (kept - 1), "what was encoded before is not encoded again"
    assert digests(killed.cache) == digests(undisturbed.cache)
    assert "manifest.json" in digests(killed.cache)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["depth", "killed", "log", "pictures", "undisturbed"]
    latents = load_rows(undisturbed.cache / "latents-64x64-00000.safetensors")
    stored = {(): set(), MAPS: {"map.depth"}, HOLES: {"map.inpaint"}, SMALL: {"map.low_resolution"}}[words]
    assert {name for name in latents if name.startswith("map.")} == stored
