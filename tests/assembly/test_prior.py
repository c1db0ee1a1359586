"""Prior preservation: class pictures are made once, by the first weights, and are trained on in their share."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm_train.assembly import prior
from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stored_weights import read_weights
from ldm_train.commands.evaluate.real_pictures import open_held_out_data
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import EvaluateSettings

PROMPT = "a black circle"
WORDS = ("prior.count=5", "prior.steps=2", "max_steps=2", "pictures.prompts=[]")


@pytest.fixture(scope="module")
def first(trained: Path, cache: Path, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with class pictures, to read only, and what it reported."""
    run_dir = tmp_path_factory.mktemp("prior") / "run"
    answer = train(cache, run_dir, f"network.weights={trained}", f"prior.prompts={PROMPT}", "prior.weight=3", *WORDS)
    assert answer.code == 0, answer.err
    return run_dir, answer.out


def test_they_are_drawn_reported_and_trained_on_in_their_share(first: tuple[Path, str], cache: Path) -> None:
    run_dir, _ = first
    rows = [json.loads(line) for line in (run_dir / "prior" / "pictures" / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [PROMPT] * 5
    reported = json.loads((run_dir / "prior" / "prior.json").read_text())
    assert (reported["prompts"], reported["count"], reported["seed"]) == ([PROMPT], 5, 0)
    joined = prior.with_class_pictures(read_trained(run_dir), run_dir)
    assert list(joined.cache) == [str(cache), str(run_dir / "prior" / "cache")]
    assert list(joined.cache_shares) == [0.25, 0.75]


def test_its_config_is_what_was_asked_for_and_makes_the_same_run_again(
    first: tuple[Path, str], cache: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    run_dir, _ = first
    config = read_trained(run_dir)
    assert config.cache == str(cache)
    assert config.cache_shares is None
    answer = ldm_train("train", f"config={run_dir / 'config.yaml'}", f"run_dir={tmp_path / 'again'}")
    assert answer.code == 0, answer.err
    again = read_trained(tmp_path / "again")
    assert again.with_values(run_dir=config.run_dir) == config
    contents = [json.loads((folder / "run.json").read_text())["content"] for folder in (run_dir, tmp_path / "again")]
    assert contents[0] == contents[1]
    one, other = (read_weights(folder, "raw")[0] for folder in (run_dir, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_evaluation_measures_what_was_held_out_of_both(first: tuple[Path, str], cache: Path) -> None:
    run_dir, _ = first
    asked = compose_as(EvaluateSettings, [f"run_dir={run_dir}", "out=x"])
    trained = read_trained(run_dir)
    data = open_held_out_data(asked, trained, build_parts(trained))
    assert data is not None
    assert data.latents.sets == [12, 5]


def test_a_continued_run_draws_nothing(first: tuple[Path, str], trained: Path, cache: Path, train: Callable) -> None:
    run_dir, _ = first
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "prior").rglob("*.png")}
    words = (f"network.weights={trained}", f"prior.prompts={PROMPT}", "prior.weight=3", *WORDS, "max_steps=3")
    assert train(cache, run_dir, *words).code == 0
    assert before == {path: path.stat().st_mtime_ns for path in (run_dir / "prior").rglob("*.png")}


def test_an_interrupted_drawing_goes_on_and_changes_nothing(
    trained: Path, cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"network.weights={trained}", f"prior.prompts={PROMPT}", *WORDS)
    assert train(cache, tmp_path / "whole", *words).code == 0
    monkeypatch.setattr(prior, "AT_ONCE", 2)
    save, saved = prior.save_png, []

    def failing(image: torch.Tensor, path: Path) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(prior, "save_png", failing)
        assert train(cache, tmp_path / "cut", *words).code == 130
    assert len(list((tmp_path / "cut").rglob("*.png"))) == 3
    assert train(cache, tmp_path / "cut", *words).code == 0
    one, other = (read_weights(tmp_path / name, "raw")[0] for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    kept = {path: path.stat().st_mtime_ns for path in saved}
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_other_weights_or_settings_draw_anew(trained: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    words = (f"network.weights={trained}", *WORDS)
    folder = tmp_path / "run" / "prior"
    assert train(cache, tmp_path / "run", *words, f"prior.prompts={PROMPT}").code == 0
    mine = [folder / "pictures" / "mine.txt", folder / "notes.txt"]
    for path in mine:
        path.write_text("mine")
    answer = train(cache, tmp_path / "run", *words, "resume=restart", 'prior.prompts=["a square","a circle"]')
    assert answer.code == 0, answer.err
    assert "drawn anew" in answer.out
    assert [path.read_text() for path in mine] == ["mine"] * 2
    lines = (folder / "pictures" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a square", "a circle"] * 2 + ["a square"]


def test_a_file_of_the_user_s_among_the_class_pictures_is_kept_and_the_message_says_where(
    trained: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    words, folder = (f"network.weights={trained}", *WORDS), tmp_path / "run" / "prior"
    assert train(cache, tmp_path / "run", *words, f"prior.prompts={PROMPT}").code == 0
    mine = folder / "pictures" / "mine.png"
    mine.write_bytes((folder / "pictures" / "00000.png").read_bytes())
    (folder / "pictures" / ".DS_Store").write_text("icons")
    restart = (*words, "resume=restart", "prior.prompts=[a square]")
    answer = train(cache, tmp_path / "run", *restart)
    assert answer.code == 1
    assert str(folder / "pictures") in answer.err
    mine.rename(tmp_path / "mine.png")
    assert train(cache, tmp_path / "run", *restart).code == 0


def test_a_users_own_pictures_are_no_class_pictures(trained: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    run_dir, words = tmp_path / "run", (f"network.weights={trained}", *WORDS)
    assert train(cache, run_dir, *words, "max_steps=1").code == 0
    (run_dir / "prior" / "pictures").mkdir(parents=True)
    (run_dir / "prior" / "pictures" / "00000.png").write_text("mine")
    answer = train(cache, run_dir, *words, "resume=restart", f"prior.prompts={PROMPT}")
    assert answer.code == 1
    assert str(run_dir / "prior") in answer.err
    assert [path.name for path in (run_dir / "prior").rglob("*")] == ["pictures", "00000.png"]
    assert (run_dir / "checkpoints" / "last.ckpt").is_file(), "nothing is removed before all is known to be right"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("network.weights=null",), "set network.weights"),
        (("cache_repeats=[1]",), "give cache_shares"),
        (("prior.weight=0",), "must be above 0"),
        (("prior.count=0",), "prior.count=0 must be"),
    ],
)
def test_what_it_does_not_go_with_is_refused(
    more: tuple[str, ...], said: str, trained: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", f"network.weights={trained}", "prior.prompts=[a circle]", *more)
    assert answer.code == 1
    assert said in answer.err
    assert not (tmp_path / "run").exists()
