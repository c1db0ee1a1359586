"""An encoding that is killed and started again: the short version of scripts/chaos_encode.py, in real processes."""

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
def test_a_killed_encoding_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from chaos_encode import Encoding, digests, draw, moment

    draw(tmp_path / "pictures", 60)
    undisturbed = Encoding(tmp_path / "pictures", tmp_path / "undisturbed", 1)
    assert undisturbed.finish().code == 0
    killed = Encoding(tmp_path / "pictures", tmp_path / "killed", 1)
    assert killed.kill(moment(killed, "encoding", 5))
    kept = len(killed.listed("parts"))
    ended = killed.finish()
    assert ended.code == 0, ended.said
    assert ended.encoded < 60 - 4 * (kept - 1), "what was encoded before is not encoded again"
    assert digests(killed.cache) == digests(undisturbed.cache)
    assert "manifest.json" in digests(killed.cache)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "log", "pictures", "undisturbed"]
