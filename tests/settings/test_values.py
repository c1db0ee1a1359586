"""Values of any setting: numbers are finite, and a text or a list stands where one is meant."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.assembly.prior import class_prompts
from ldm_train.assembly.prompts import read_prompts
from ldm_train.assembly.watching import own_prompts
from ldm_train.settings.composition import ConfigError, compose, compose_as
from ldm_train.settings.schema.options import select
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.validation import out_of_range

NEEDED = {
    "train": ["cache=x", "run_dir=x"],
    "check": ["source.path=x"],
    "encode": ["source.path=x", "cache=x"],
    "sample": ["run_dir=x", "prompts=[x]", "out=x"],
    "evaluate": ["run_dir=x", "out=x.json"],
    "export": ["run_dir=x", "out=x"],
    "report": ["run_dir=x", "out=x"],
    "train_autoencoder": ["source.path=x", "run_dir=x"],
}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *[("train", name) for name in ("guidance.scale", "optimizer.lr", "offset_noise", "seed")],
        *[("sample", name) for name in ("guidance.scale", "guidance.rescale", "strength")],
        ("evaluate", "+guidance.scale"),
        ("train_autoencoder", "kl_weight"),
        ("export", "ema_length"),
        ("check", "price_per_hour"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(verb: str, name: str, value: str) -> None:
    more = ["guidance=classifier_free"] if name.startswith("+") else []
    try:
        reasons = out_of_range(compose(verb, [*NEEDED[verb], *more, f"{name.lstrip('+')}={value}"]))
    except ConfigError as error:  # where a whole number is asked for, by its type
        reasons = [str(error)]
    assert [reason for reason in reasons if reason.startswith(f"{name.lstrip('+')}=")]


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        ("sample", "adapters={runs/lora:nan}"),
        ("sample", "x.guidance=[1,inf]"),
        ("evaluate", "sweep.guidance=[nan]"),
        ("train", "pictures.guidance=[1,nan]"),
        ("train", "cache_shares=[nan]"),
        ("train", "optimizer.betas=[0.9,nan]"),
        ("sample", "guidance.interval=[0,nan]"),
    ],
)
def test_neither_are_those_in_lists_and_mappings(verb: str, word: str) -> None:
    assert any(reason.startswith(word.partition("=")[0]) for reason in out_of_range(compose(verb, [*NEEDED[verb], word])))


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *[("encode", name) for name in ("source.path", "autoencoder.weights")],
        *[("evaluate", name) for name in ("pictures", "real", "pipeline")],
        *[("sample", name) for name in ("run_dir", "picture", "mask")],
        ("train", "network.weights"),
        ("report", "run_dir"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(verb: str, name: str) -> None:
    more = ["autoencoder=pretrained"] if name.startswith("autoencoder") else []
    assert [reason.split()[0] for reason in out_of_range(compose(verb, [*NEEDED[verb], *more, f"{name}="]))] == [name]


def test_guidance_may_reach_up_to_the_noise_alone() -> None:
    assert out_of_range(compose("sample", [*NEEDED["sample"], "guidance.interval=[1,inf]"])) == []


def test_it_ends_the_command_at_once(ldm_train: Callable, trained: Path, tmp_path: Path) -> None:
    answer = ldm_train("sample", f"run_dir={trained}", "prompts=[x]", f"out={tmp_path / 'out'}", "guidance.scale=nan")
    assert answer.code == 1
    assert "guidance.scale=nan" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("trained=network.*", "trained", ["network.*"]),
        ("adapter.targets=conv_in", "adapter.targets", ["conv_in"]),
        ('text_encoder.new_words="<toy>=toy"', "text_encoder.new_words", ["<toy>=toy"]),
        ("text_encoder.classes=cat", "text_encoder.classes", ["cat"]),
    ],
)
def test_one_text_is_a_list_of_one_where_several_are_meant(word: str, name: str, value: list[str]) -> None:
    groups = ["adapter=lora", "text_encoder=class_labels" if "classes" in word else "text_encoder=small"]
    assert select(compose("train", [*NEEDED["train"], *groups, word]), name) == value


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *[("sample", name) for name in ("run_dir", "out", "picture", "mask", "negative_prompt", "weights", "device")],
        *[("evaluate", name) for name in ("pictures", "pipeline", "real", "out")],
        *[("train", name) for name in ("run_dir", "network.weights", "max_time", "compile")],
        *[("export", name) for name in ("run_dir", "weights")],
        ("encode", "cache"),
        ("report", "out"),
    ],
)
@pytest.mark.parametrize("value", ["[a,b]", "{a:b}"])
def test_where_one_text_is_meant_brackets_are_characters_of_it(verb: str, name: str, value: str) -> None:
    assert select(compose(verb, [*NEEDED[verb], f"{name}={value}"]), name) == value


@pytest.mark.parametrize(("verb", "name"), [("train", "cache"), ("report", "run_dir"), ("evaluate", "prompts")])
def test_a_mapping_in_a_file_is_refused_where_texts_are_meant(verb: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"{name}: {{a: b}}")
    needed = [word for word in NEEDED[verb] if not word.startswith(f"{name}=")]
    with pytest.raises(ConfigError, match=f"^{name}="):
        compose(verb, [*needed, f"config={tmp_path}/own.yaml"])


@pytest.mark.parametrize("word", ["cache=[a,b]", "run_dir=[a,b]"])
def test_paths_of_several_are_lists(word: str) -> None:
    verb = "train" if word.startswith("cache") else "report"
    assert select(compose(verb, [*NEEDED[verb], word]), word.partition("=")[0]) == ["a", "b"]


TYPED = [
    *("a photo of ", " a", "it's me", 'a "red" fox', "[a]", "{top} of {folder}", "a: b # c", "a,b", "a=b", "\\n", 'a\\"b'),
    *("1e3", "2026_11_29", "007", "0x10", "true", "5", "-1", "1.50", "é ü 🦊", "", "~", "$HOME", "(a)", "a|b", "NULL", "@x"),
]


@pytest.mark.parametrize("value", TYPED)
def test_a_text_is_the_word_that_was_typed(value: str) -> None:
    settings = compose("encode", [*NEEDED["encode"], f"source.prefix={value}", f"source.template={value}"])
    assert select(settings, "source.prefix") == value
    assert select(settings, "source.template") == value
    assert select(compose("sample", [*NEEDED["sample"], f"negative_prompt={value}"]), "negative_prompt") == value


@pytest.mark.parametrize(
    "value", ["a b", "it's", "[a,b]", "1e3", "2026_11_29", "a=b,c", "out/lr=1e-3,seed=0", "s3://b/k?x=1&y"]
)
@pytest.mark.parametrize(
    ("verb", "name"), [("train", "run_dir"), ("encode", "source.path"), ("encode", "cache"), ("train", "network.weights")]
)
def test_a_path_is_the_word_that_was_typed(verb: str, name: str, value: str) -> None:
    assert select(compose(verb, [*NEEDED[verb], f"{name}={value}"]), name) == value


@pytest.mark.parametrize(
    ("verb", "name"), [("train", "run_dir"), ("encode", "source.path"), ("sample", "mask"), ("train", "network.weights")]
)
def test_a_path_may_begin_at_the_home_folder(verb: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert select(compose(verb, [*NEEDED[verb], f"{name}=~/x y"]), name) == "/home/me/x y"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cache=[~/a,1e3,2026_11_29]", ["/home/me/a", "1e3", "2026_11_29"]),
        ("cache=[a b, 'c,d' ,it's]", ["a b", "c,d", "it's"]),
        ("cache=['a',\"b c\"]", ["a", "b c"]),
        ("trained=[network.*,5,true]", ["network.*", "5", "true"]),
        ("pictures.prompts=[a (red) fox, it's me]", ["a (red) fox", "it's me"]),
        ("pictures.prompts=[]", []),
        ("pictures.guidance=[1,2.5]", [1, 2.5]),
    ],
)
def test_texts_in_a_list_are_the_words_that_were_typed(
    word: str, expected: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert select(compose("train", [*NEEDED["train"], word]), word.partition("=")[0]) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("adapters={~/x.safetensors:0.5}", {"/home/me/x.safetensors": 0.5}),
        (
            "adapters={my lora (1).safetensors:0.8,2024_01:1,it's [a].safetensors:-.5}",
            {"my lora (1).safetensors": 0.8, "2024_01": 1.0, "it's [a].safetensors": -0.5},
        ),
        ("adapters={'a,b.safetensors':1e-1,\"c:d\":2}", {"a,b.safetensors": 0.1, "c:d": 2.0}),
        ("adapters=[~/a b,2024_01]", ["/home/me/a b", "2024_01"]),
        ("adapters=[{path:~/a b,scale:0.5}]", [{"path": "/home/me/a b", "scale": 0.5}]),
        ("adapters=my lora.safetensors", "my lora.safetensors"),
        ("x.checkpoint=[ema,~/a b,1e3]", ["ema", "/home/me/a b", "1e3"]),
        ("embeddings=[~/a,Photos [2024, 25]]", ["/home/me/a", "Photos [2024, 25]"]),
    ],
)
def test_paths_with_factors_are_as_they_were_typed(word: str, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert select(compose("sample", [*NEEDED["sample"], word]), word.partition("=")[0]) == expected


@pytest.mark.parametrize("word", ["adapters={a:b}", "adapters={a}", "adapters={a:[1]}"])
def test_factors_are_numbers(word: str) -> None:
    with pytest.raises(ConfigError, match=r"^adapters=.*takes paths"):
        compose("sample", [*NEEDED["sample"], word])


def test_paths_in_a_file_are_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text(
        "adapters: {~/x.safetensors: 0.5, 2024_01: 1, no: -1, 'a\\b\"c': 2}\nx: {checkpoint: [~/a, 1e3]}\npicture: ~/p.png\n"
    )
    settings = compose("sample", [*NEEDED["sample"], "config=~/own.yaml"])
    assert select(settings, "adapters") == {f"{tmp_path}/x.safetensors": 0.5, "2024_01": 1, "no": -1, 'a\\b"c': 2}
    assert select(settings, "x.checkpoint") == [f"{tmp_path}/a", "1e3"]
    assert select(settings, "picture") == f"{tmp_path}/p.png"
    (tmp_path / "train.yaml").write_text("max_time: 11:30:00\ncache: [~/c, 2026_1_12]\npictures: {prompts: 2024-01-02}\n")
    settings = compose("train", ["run_dir=x", "config=~/train.yaml"])
    assert select(settings, "max_time") == "11:30:00"
    assert select(settings, "cache") == [f"{tmp_path}/c", "2026_1_12"]
    assert select(settings, "pictures.prompts") == "2024-01-02"


@pytest.mark.parametrize(
    ("verb", "words", "name"),
    [
        ("evaluate", ["evaluation=drawings", "evaluation.source=~/x y"], "evaluation.source"),
        ("train", ["features=dinov2", "features.weights=~/x y"], "features.weights"),
        ("train", ["features=inception", "features.weights=~/x y"], "features.weights"),
        ("train", ["clip_score=open_clip", "clip_score.pretrained=~/x y"], "clip_score.pretrained"),
        ("encode", ["source=webdataset", "source.download=~/x y"], "source.download"),
        ("encode", ["source=huggingface", "source.cache_dir=~/x y"], "source.cache_dir"),
        ("encode", ["source=huggingface", "source.data_files=~/x y"], "source.data_files"),
        ("train", ["guidance=autoguidance", "guidance.weak=~/x y"], "guidance.weak"),
        ("train", ["text_encoder=clip_vit_l_14", "text_encoder.weights=~/x y"], "text_encoder.weights"),
    ],
)
def test_paths_of_options_begin_at_the_home_folder_too(
    verb: str, words: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert select(compose(verb, [*NEEDED[verb], *words]), name) == "/home/me/x y"


def test_data_files_are_paths_of_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = [*NEEDED["encode"], "source=huggingface", "source.data_files={train:~/a.parquet,test:[b c,~/1e3]}"]
    assert select(compose("encode", words), "source.data_files") == {
        "train": "/home/me/a.parquet",
        "test": ["b c", "/home/me/1e3"],
    }


def test_a_file_of_prompts_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.txt").write_text("a fox\n")
    assert [prompt.text for prompt in read_prompts("~/p.txt")] == ["a fox"]
    assert [prompt.text for prompt in read_prompts("~ a fox")] == ["~ a fox"]


def test_a_source_of_one_path_takes_brackets_as_characters_and_one_of_several_a_list() -> None:
    word = "source.path=[a,b]"
    assert select(compose("encode", ["cache=x", word]), "source.path") == "[a,b]"
    assert select(compose("encode", ["cache=x", "source=webdataset", word]), "source.path") == ["a", "b"]


def test_the_later_of_two_values_wins_of_whichever_type() -> None:
    assert select(compose("sample", [*NEEDED["sample"], "prompts=b", "prompts=[c,d]", "prompts=e"]), "prompts") == "e"


@pytest.mark.parametrize(("verb", "word"), [("train", "network.channels={a:b}"), ("train", "optimizer.betas={a:1}")])
def test_a_mapping_in_place_of_a_list_is_refused_by_name(verb: str, word: str) -> None:
    name = word.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{name}=.*{name} takes a list"):
        compose(verb, [*NEEDED[verb], word])


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        *[("sample", f"size={value}") for value in ("64", "[64]", "[a,b]", "[64,64,64]")],
        *[("train", f"{name}={value}") for name in ("cache_repeats", "cache_shares") for value in ("2", "a", "[a]")],
        ("encode", "crop.areas=512"),
    ],
)
def test_lists_of_numbers_are_no_other_values(verb: str, word: str) -> None:
    more = ["crop=buckets"] if "crop" in word else []
    try:
        reasons = out_of_range(compose(verb, [*NEEDED[verb], *more, word]))
    except ConfigError as error:  # another type
        reasons = [str(error)]
    assert [reason.partition("=")[0] for reason in reasons] == [word.partition("=")[0]]


def test_one_prompt_is_one_prompt_everywhere(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a fox\n\na cat\n")
    for given, expected in (
        ("a fox", ["a fox"]),
        ("5", ["5"]),
        ("[a fox,5]", ["a fox", "5"]),
        ("{prompt: a fox, seed: 7}", ["a fox"]),
        (str(tmp_path / "prompts.txt"), ["a fox", "a cat"]),
    ):
        settings = compose_as(TrainSettings, [*NEEDED["train"], f"pictures.prompts={given}"])
        for found in (own_prompts(settings), read_prompts(settings.pictures.prompts)):
            assert found is not None
            assert [prompt.text for prompt in found] == expected
    assert own_prompts(compose_as(TrainSettings, [*NEEDED["train"], "pictures.prompts=[]"])) == []
    assert own_prompts(compose_as(TrainSettings, NEEDED["train"])) is None


@pytest.mark.parametrize("given", ["missing.txt", "lists/animals", "prompts.csv", [["a"]], {"a": "b"}, [None], []])
def test_what_is_no_prompt_is_refused_by_the_settings_name(given: object) -> None:
    with pytest.raises(ValueError, match=r"^pictures\.prompts="):
        read_prompts(given, setting="pictures.prompts")


@pytest.mark.parametrize("prompt", ["a " + "very " * 100 + "long prompt", "x" * 300, "a.b" * 100, "a/" + "b" * 300 + " c"])
def test_a_prompt_may_be_longer_than_the_name_of_a_file(prompt: str) -> None:
    settings = compose_as(TrainSettings, [*NEEDED["train"], f"prior.prompts={prompt}", f"pictures.prompts={prompt}"])
    [own] = own_prompts(settings) or []
    assert class_prompts(settings) == [own.text] == [prompt]


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match=r"prompts\.txt"):
        read_prompts(str(tmp_path / "prompts.txt"))


def test_a_run_draws_one_picture_of_one_prompt(cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", "pictures.prompts=a black circle", "max_steps=1", "validation.every=9")
    assert answer.code == 0, answer.err
    assert '"a black circle"' in (tmp_path / "run/samples/prompts.json").read_text()
