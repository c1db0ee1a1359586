"""The command line: what it answers to words that it knows, to words that it does not, and to input that is not there."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from ldm_train.cli.main import VERBS
from ldm_train.settings.composition import folder, groups
from tests.conftest import PICTURES, TEXT


def groups_of(verb: str) -> set[str]:
    """The groups in a verb's defaults list."""
    config = OmegaConf.load(folder() / f"{verb}.yaml")
    return {
        str(key).removeprefix("optional ") for entry in config.defaults if isinstance(entry, DictConfig) for key in entry
    }


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_without_a_verb_the_verbs_are_listed(words: list[str], code: int, ldm_train: Callable) -> None:
    answer = ldm_train(*words)
    assert answer.code == code
    assert all(f"  {verb} " in answer.out and what in answer.out for verb, what in VERBS.items())


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'"),
        (["train-autoencoder"], "did you mean 'train_autoencoder'"),
        (["xyzzy"], "unknown verb 'xyzzy'\n"),
        (["train", "cache=x", "run_dir=y", "batchsize=3"], "did you mean 'batch_size'"),
        (["train", "cache=x", "run_dir=y", "xyzzy=3"], "unknown setting 'xyzzy' of train ("),
        (["train", "cache=x", "run_dir=y", "optimizer.lrr=3"], "did you mean 'optimizer.lr'"),
        (["train", "cache=x", "run_dir=y", "pictures.evry=3"], "did you mean 'pictures.every'"),
        (["train", "cache=x", "run_dir=y", "network.chanels=[8]"], "did you mean 'network.channels'"),
        (["train", "cache=x", "run_dir=y", "checkpiont.every=3"], "did you mean 'checkpoint.every'"),
        (["train", "cache=x", "run_dir=y", "schedule=cosin"], "schedule=cosin is no option; there are: betas, cosine, edm"),
        (["train", "cache=x", "run_dir=y", "schedule=cosin"], "did you mean 'cosine'"),
        (["train", "cache=x", "run_dir=y", "ema=power", "ema.length=0.1"], "did you mean 'ema.lengths'"),
        (
            ["train", "cache=x", "run_dir=y", "ema=power", "ema.snapshot_every=often"],
            "snapshot_every=often is not accepted",
        ),
        (["train", "cache=x", "run_dir=y", "experiment=openmojis"], "did you mean 'openmoji'"),
        (["train", "cache=x", "run_dir=y", "autoencoder=identty"], "did you mean 'identity'"),
        (["train", "cache=x", "run_dir=y", "text_encoder=smal"], "did you mean 'small'"),
        (["train", "cache=x", "run_dir=y", "logger=wandbb"], "did you mean 'wandb'"),
        (["evaluate", "run_dir=x", "out=y", "evaluation=drawing"], "did you mean 'drawings'"),
        (["encode", "cache=x", "source=foldr"], "did you mean 'folder'"),
        (["encode", "source.path=x", "cache=y", "image_sise=3"], "did you mean 'image_size'"),
        (["sample", "run_dir=x", "out=y", "prompts=[a]", "samplr=ddim"], "did you mean 'sampler'"),
        (["train", "run_dir=y"], "train needs cache=…"),
        (["sample"], "sample needs out=…, prompts=…, run_dir=…"),
        (["encode", "cache=x"], "encode needs source.path=…"),
        (["encode", "source.path=x", "cache=y", "autoencoder=pretrained"], "encode needs autoencoder.weights=…"),
        (
            ["train", "cache=x", "run_dir=y", "batch_size=many"],
            "batch_size=many is not accepted",
        ),
        (
            ["train", "cache=x", "run_dir=y", "batch_size=2.5"],
            "batch_size=2.5 is not accepted",
        ),
        (
            ["train", "cache=x", "run_dir=y", "optimizer.lr=fast"],
            "optimizer.lr=fast is not accepted",
        ),
        (["train", "cache=x", "run_dir=y", "debug=1"], "debug=1 is not accepted; debug takes true or false"),
        (["train", "cache=x", "run_dir=y", "nonsense"], "nonsense"),
        (["train", "cache=x", "run_dir=y", "network.channels=[1"], "network.channels"),
    ],
)
def test_what_is_not_understood_is_answered_with_the_nearest(words: list[str], reported: str, ldm_train: Callable) -> None:
    answer = ldm_train(*words)
    assert answer.code == 2
    assert reported in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_settings_and_groups(verb: str, ldm_train: Callable) -> None:
    answer = ldm_train(verb, "--help")
    assert answer.code == 0
    assert f"ldm-train {verb} " in answer.out, "its command"
    assert re.search(r"^  debug=false ", answer.out, re.MULTILINE), "its settings"
    assert max(map(len, answer.out.splitlines())) <= 125
    shown = " ".join(answer.out.partition("\nGroups")[2].split())
    for group in groups_of(verb):
        assert re.search(rf"{group}=\S+ .*options: {', '.join(groups()[group])}", shown), group


def test_help_of_an_option_shows_its_settings(ldm_train: Callable) -> None:
    answer = ldm_train("train", "ema=power", "memory=low", "--help")
    assert answer.code == 0
    assert re.search(r"^  ema.lengths=\[", answer.out, re.MULTILINE)
    assert re.search(r"^  ema.snapshot_every=\S+ \*", answer.out, re.MULTILINE), "a continued run may change it"
    assert "network.gradient_checkpointing=true" in answer.out
    assert ldm_train("train", "ema=powr", "--help").code == 2


def test_the_composed_config_is_printed_and_read_again(ldm_train: Callable, tmp_path: Path) -> None:
    words = ["train", "cache=1e3", f"run_dir={tmp_path}/a=b", "optimizer=sgd", "pictures.prompts=[it's me,2026_11_29,no]"]
    answer = ldm_train(*words, "--print-config")
    assert (answer.code, answer.err) == (0, "")
    (tmp_path / "own.yaml").write_text(answer.out)
    assert ldm_train("train", f"config={tmp_path}/own.yaml", "--print-config").out == answer.out
    assert OmegaConf.create(answer.out).pictures.prompts == ["it's me", "2026_11_29", "no"]
    assert not (tmp_path / "a=b").exists()


def test_the_version_is_the_packages(ldm_train: Callable) -> None:
    answer = ldm_train("--version")
    assert answer.code == 0
    assert answer.out.split() == ["ldm-train", version("ldm-train")]


@pytest.mark.parametrize(
    ("words", "reported"),
    [(["trian"], "did you mean 'train'"), (["train", "cache=x", "run_dir=y", "batchsize=3"], "did you mean 'batch_size'")],
)
@pytest.mark.slow
def test_a_typo_is_answered_before_anything_heavy_is_imported(words: list[str], reported: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ldm_train", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 2
    assert reported in ended.stderr
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines() if "import time:" in line
    }
    assert "ldm_train" in imported
    assert not imported & {"torch", "pytorch_lightning", "open_clip", "diffusers", "transformers", "numpy"}


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ("check source.path={tmp}/missing", "source.path={tmp}/missing is not a folder"),
        ("check source.path={tmp}/empty", "no picture in {tmp}/empty"),
        ("encode source.path={tmp}/missing cache={tmp}/c", "source.path={tmp}/missing is not a folder"),
        ("encode source.path={tmp}/empty cache={tmp}/c", "no picture in {tmp}/empty"),
        ("encode source.path={pictures} cache={tmp}/c dtype=int8", "accepted: float16, bfloat16, float32"),
        (
            "encode source.path={pictures} cache={tmp}/c autoencoder=pretrained autoencoder.weights={tmp}/empty",
            "autoencoder.weights={tmp}/empty is neither shipped",
        ),
        (
            "encode source.path={pictures} cache=x autoencoder=identity text_encoder=clip_vit_l_14 text_encoder.model=ViT-X",
            "text_encoder.model=ViT-X is not ",
        ),
        (
            "encode source.path={pictures} cache=x autoencoder=identity text_encoder=clip_vit_l_14 text_encoder.weights=x",
            "text_encoder.weights=x is neither a file nor",
        ),
        ("train cache={tmp}/empty run_dir={tmp}/r", "{tmp}/empty is not a latent cache"),
        ("train cache={tmp}/empty run_dir={tmp}/r", "`ldm-train encode … cache={tmp}/empty`"),
        ("train cache={pictures} run_dir={tmp}/r", "`ldm-train encode … cache=NEW_FOLDER`"),
        ("train cache={cache} run_dir={tmp}/r resume=perhaps", "resume=perhaps is not known"),
        ("train cache={cache} run_dir={tmp}/r network.weights={tmp}/empty", "{tmp}/empty is not a trained run"),
        ("sample run_dir={tmp}/empty prompts=[a] out={tmp}/o", "run_dir={tmp}/empty is not a run directory"),
        ("sample run_dir={trained} prompts={tmp}/missing.txt out={tmp}/o", "prompts={tmp}/missing.txt: "),
        ("sample run_dir={trained} prompts=[] out={tmp}/o", "holds no prompt"),
        (
            "sample run_dir={trained} prompts=[a] out={tmp}/o weights=best",
            "weights=best is not known; a checkpoint holds ema",
        ),
        ("sample run_dir={trained} prompts=[a] out={tmp}/o weights=5", "weights=5 is not known"),
        ("sample run_dir={trained} prompts=[a] out={tmp}/o steps=2000", "steps=2000 must be from 1 to"),
        ("sample run_dir={trained} prompts=[a] out={tmp}/o batch_size=0", "batch_size=0"),
        ("encode source.path={pictures} cache={tmp}/c autoencoder=identity batch_size=0", "batch_size=0"),
        ("evaluate run_dir={tmp}/empty out={tmp}/o.json", "run_dir={tmp}/empty is not a run directory"),
        ("evaluate run_dir={trained} out={tmp}/o.json cache={tmp}/empty", "{tmp}/empty is not a latent cache"),
        (
            "evaluate run_dir={trained} out={tmp}/o.json evaluation=drawings evaluation.source={tmp}/missing",
            "source.path={tmp}/missing is not a folder",
        ),
        ("train_autoencoder source.path={tmp}/missing run_dir={tmp}/r", "source.path={tmp}/missing is not a folder"),
        ("train_autoencoder source.path={tmp}/empty run_dir={tmp}/r", "no picture in {tmp}/empty"),
    ],
)
def test_bad_input_ends_with_a_message_and_no_traceback(
    words: str, reported: str, ldm_train: Callable, tmp_path: Path, pictures: Path, cache: Path, trained: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"tmp": tmp_path, "pictures": pictures, "cache": cache, "trained": trained}
    answer = ldm_train(*(word.format(**places) for word in words.split()))
    assert answer.code == 1
    assert reported.format(**places) in answer.err
    assert "Traceback" not in answer.err
    assert "debug=true" in answer.err


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ("network.channels=[8,16,32]", "network.attention has 2 flags for 3 levels"),
        ("network.head_size=7", "network.head_size=7 does not divide"),
        ("ema.decay=1", "ema.decay=1"),
        ("batch_size=5 micro_batch_size=2", "batch_size=5"),
        ("checkpoint.every=0", "checkpoint.every=0"),
        ("validation.every=0", "validation.every=0"),
        ("pictures.every=0", "pictures.every=0"),
        ("trainer.log_every_n_steps=0", "log_every_n_steps=0"),
        ("batch_size=0", "batch_size=0"),
        ("pictures.steps=0", "pictures.steps=0 must be a whole number of at least 1"),
        ("pictures.steps=2000", "steps=2000 must be from 1"),
        ("weighting=min_snr weighting.gamma=0", "gamma=0 must be above 0"),
    ],
)
def test_a_bad_setting_ends_training_before_its_first_step(
    words: str, reported: str, train: Callable, cache: Path, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", "max_steps=1", *words.split())
    assert answer.code == 1
    assert reported in answer.err
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    from ldm_train.cli.main import main

    with pytest.raises(ValueError, match="is not a latent cache"):
        main(["train", f"cache={tmp_path}", f"run_dir={tmp_path}/run", "debug=true"])


def test_what_lightning_refuses_is_a_message(train: Callable, cache: Path, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", "+trainer.gradient_clip_algorithm=sideways")
    assert answer.code == 1
    assert "`gradient_clip_algorithm` sideways is invalid" in answer.err
    assert "Traceback" not in answer.err
    assert "debug=true" in answer.err


def test_a_damaged_checkpoint_is_a_message(ldm_train: Callable, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    whole = (trained / "checkpoints/last.ckpt").read_bytes()
    (tmp_path / "run/checkpoints/last.ckpt").write_bytes(whole[: len(whole) // 2])
    answer = ldm_train("sample", f"run_dir={tmp_path}/run", "prompts=[a]", f"out={tmp_path}/out")
    assert answer.code == 1
    assert "cannot be read as a checkpoint" in answer.err


def test_check_lists_everything_and_compares_with_a_cache(ldm_train: Callable, pictures: Path, cache: Path) -> None:
    words = [*PICTURES, *TEXT, "dtype=float32", "measure=false"]
    answer = ldm_train("check", f"source.path={pictures}", f"cache={cache}", *words)
    assert answer.code == 0
    assert "12 pictures: 12 can be used (3 held out), 0 cannot" in answer.out
    assert "13 distinct captions" in answer.out
    assert f"{cache} holds 12 of these 12 pictures" in answer.out
    assert "No problems found" in answer.out


def test_check_names_every_problem(ldm_train: Callable, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()][:3]
    for row in rows:
        (folder / row["file_name"]).write_bytes((pictures / row["file_name"]).read_bytes())
    (folder / rows[0]["file_name"]).write_bytes(b"no picture")
    rows[1]["text"] = ""
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = ldm_train("check", f"source.path={folder}", "image_size=16", "measure=false")
    assert answer.code == 1
    assert f"{rows[0]['file_name']}: the picture does not decode" in answer.out
    assert f"{rows[1]['file_name']}: no caption" in answer.out
    assert "3 pictures: 1 can be used (0 held out), 2 cannot" in answer.out


# Options, interruptions and closed pipes


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["--multirun", "--dryrun", "seed=0,1"], ["--dryrun", "--dry-run"]),
        (["-n"], ["-n"]),
        (["--print_config"], ["--print_config", "--print-config"]),
        (["--batch-size=4"], ["--batch-size=4", "batch_size"]),
        (["--lr", "1e-4"], ["--lr", "optimizer.lr"]),
    ],
)
def test_an_unknown_option_is_refused_and_starts_nothing(words: list[str], hints: list[str], ldm_train: Callable) -> None:
    answer = ldm_train("train", "cache=x", "run_dir=y", *words)
    assert (answer.code, answer.out) == (2, "")
    assert all(hint in answer.err for hint in hints)


@pytest.mark.parametrize("word", ["sweep/seed=0", "sweep/optimizer.lr=0.1,seed=0/", "seed=0", "~/sweep/seed=0"])
def test_runs_lists_a_folder_whose_name_has_an_equals_sign(
    word: str, trained: Path, ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = Path(word.replace("~", str(tmp_path)))
    folder.mkdir(parents=True)
    shutil.copytree(trained, folder / "run")
    answer = ldm_train("runs", word, "format=json")
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)) == 1


def test_runs_takes_one_folder(ldm_train: Callable) -> None:
    answer = ldm_train("runs", "a", "b/c=d")
    assert answer.code == 2
    assert "a, b/c=d" in answer.err


@pytest.mark.parametrize("place", ["ldm_train.cli.run_command.compose", "ldm_train.cli.run_command.end_with_launcher"])
def test_an_interruption_before_a_command_begins_is_one_line(
    place: str, ldm_train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    answer = ldm_train("train", "cache=x", "run_dir=y")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (130, "", 1)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["omegaconf", "torch._C", "torch.optim"])
def test_an_interruption_of_imports_is_one_line(library: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ldm_train", "train", "cache=absent", "run_dir=absent"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, restore_signals=True
    ) as process:
        assert process.stderr is not None
        assert any(library in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        lines = [line for line in process.stderr if not line.startswith("import time:")]
    assert (process.returncode, len(lines)) == (130, 1), lines


@pytest.mark.slow
@pytest.mark.parametrize("words", [["train", "--help"], ["--help"], ["train", "cache=x", "run_dir=y", "--print-config"]])
def test_a_reader_that_leaves_ends_a_command_quietly(words: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ldm_train", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_broken_pipe_of_something_else_is_no_reader_that_left(
    ldm_train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BrokenPipeError("a worker")

    monkeypatch.setattr("ldm_train.cli.run_command.refuse_at_once", fail)
    with pytest.raises(BrokenPipeError):
        ldm_train("runs", "outputs")
