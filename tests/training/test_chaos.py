"""A training that is killed and started again: the short version of scripts/chaos_train.py, in real processes."""

from pathlib import Path

import pytest

from ldm_train.util.files import temporary_path

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import chaos_train

    cache = chaos_train.prepare(tmp_path)
    undisturbed, killed = (chaos_train.Run(cache, tmp_path / name, 1, 24) for name in ("whole", "killed"))
    assert undisturbed.start().wait() == 0, undisturbed.said()
    for death, continued in (("between micro-batches", 0), ("writing", 7)):
        died, _ = killed.kill(chaos_train.Death(death, 10))
        assert died, killed.said()
        assert f"at step {continued}" in killed.said() or not continued
        assert chaos_train.read_step(killed.last) == 7, "the checkpoint of step 14 was never there"
    assert temporary_path(killed.last).stat().st_size > 0
    assert killed.start().wait() == 0, killed.said()
    assert all(chaos_train.compare(killed, undisturbed).values())
