"""`ldm-train tokens`: how a text is split, what is cut, what is near, and how far training moved it."""

import json
import re
from collections.abc import Callable
from math import ceil, sqrt
from pathlib import Path

import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from torch.testing import assert_close
from werkzeug.test import Client

from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stored_weights import load_weights
from ldm_train.commands.tokens import projector_files
from ldm_train.commands.tokens.opened_encoder import OpenedEncoder, open_encoder, rebuild_start
from ldm_train.commands.tokens.projector_files import choose_side, write_projector
from ldm_train.commands.tokens.token_facts import examine_text, find_neighbours
from ldm_train.commands.tokens.token_lines import describe_moves
from ldm_train.conditioners.text_encoder import TextEncoder, small
from ldm_train.conditioners.token_pieces import embed_pieces, group_words, list_token_vectors, spell_tokens, split_text
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import TokensSettings

SUIT = "a cat wearing a suit"


def tiny(**settings: object) -> TextEncoder:
    """A small text encoder, always of the same weights."""
    return small(width=16, layers=1, heads=2, trained=False, **settings).eval()  # type: ignore[arg-type]


def opened(**settings: object) -> OpenedEncoder:
    return OpenedEncoder(tiny(**settings), "a small one")


def settings_of(*words: str) -> TokensSettings:
    return compose_as(TokensSettings, list(words))


def test_a_rare_word_is_several_tokens_and_a_frequent_one_is_one() -> None:
    words = group_words(split_text(tiny(), "Dreamshape cat"))
    assert [(word, [piece.text for piece in own]) for word, own in words] == [
        ("dreamshape", ["dream…", "shape"]),
        ("cat", ["cat"]),
    ]
    assert [piece.number for _, own in words for piece in own] == [4595, 6448, 2368]  # of CLIP's vocabulary


@pytest.mark.parametrize(
    "text", [SUIT, "It's 2026: a café, 漢字 🦊!", "two  blanks\nand a line", "x" * 200, "🦊" * 9], ids=range(5)
)
def test_tokens_spell_the_text_and_have_its_numbers(text: str) -> None:
    encoder = tiny(context_length=256)
    pieces = split_text(encoder, text)
    assert [piece.number for piece in pieces] == encoder.tokenize([text])[0, 1 : 1 + len(pieces)].tolist()
    assert b"".join(piece.spelling for piece in pieces).decode() == "".join(text.lower().split())
    assert "".join(word for word, _ in group_words(pieces)) == "".join(text.lower().split())


def test_new_words_are_words_with_their_own_vectors() -> None:
    encoder = tiny(new_words=["<toy>=wooden toy"])
    [(first, _), (toy, own), (last, _)] = group_words(split_text(encoder, "a <toy> fox"))
    assert (first, toy, last) == ("a", "<toy>", "fox")
    vectors = list_token_vectors(encoder)
    assert_close(vectors[[piece.number for piece in own]], encoder.new_vectors()["<toy>"])


@pytest.mark.parametrize("chunks", [1, 2])
def test_the_end_of_a_long_text_is_cut(chunks: int) -> None:
    facts = examine_text(
        opened(context_length=6, chunks=chunks), "one two three four five six seven eight nine", neighbours=0
    )
    places = [token.place for token in facts.tokens]
    assert places == [*([1, 2, 3, 4], [1, 2, 3, 4, 7, 8, 9, 10])[chunks - 1], *[None] * (9 - 4 * chunks)]
    row = facts.encoder.tokenize([facts.text])[0]
    assert [int(row[token.place]) for token in facts.kept if token.place] == [token.piece.number for token in facts.kept]


def test_vectors_after_the_transformer_are_those_that_the_network_attends_to() -> None:
    encoder = tiny(context_length=6, chunks=2)
    text = "one two three four five"
    [states] = encoder.embed(encoder.tokenize([text]))
    assert_close(embed_pieces(encoder, text), states[[1, 2, 3, 4, 7]])


def test_neighbours_are_the_nearest_directions_without_the_token_itself() -> None:
    vectors = torch.tensor([[1.0, 0], [2, 0.1], [0, 1], [-1, 0], [3, 3]])
    found = find_neighbours(vectors, [0], torch.arange(5), count=3)
    assert [number for number, _ in found[0]] == [1, 4, 2]
    assert found[0][1][1] == pytest.approx(2**-0.5)
    assert [number for number, _ in find_neighbours(vectors, [0], torch.tensor([2, 3, 0]), count=9)[0]] == [2, 3]
    assert find_neighbours(vectors, [0], torch.arange(5), count=0) == [[]]


def test_similarities_are_of_the_vectors_before_and_after() -> None:
    facts = examine_text(opened(), "a a fox", neighbours=1)
    before, after = facts.similarities
    assert before[0, 1] == pytest.approx(1)  # the same token has the same vector
    assert after[0, 1] < 0.999  # and in another place another meaning
    assert_close(before.diag(), torch.ones(3))
    assert_close(after.diag(), torch.ones(3))


def test_a_run_that_trains_nothing_moves_nothing(run_with: Callable[..., Path]) -> None:
    """So the vectors of before the training are built again exactly."""
    run = open_encoder(settings_of("text=x", f"run_dir={run_with('optimizer.lr=0')}"))
    assert run.start is not None
    assert torch.equal(run.start, list_token_vectors(run.encoder))


def test_a_run_moves_the_tokens_of_its_captions(trained: Path) -> None:
    facts = examine_text(open_encoder(settings_of("text=x", f"run_dir={trained}")), "a black fox", neighbours=3)
    black, fox = facts.tokens[1:]
    assert black.moved is not None
    assert fox.moved is not None
    assert (black.learned, fox.learned) == (True, False)
    assert black.moved[0] > 10 * fox.moved[0]
    known = {"a", "black", "circle", "square", "triangle", "on", "red", "lime", "blue", "white", "background", ",", "!…"}
    assert {text for text, _ in black.neighbours} <= known | {"<start_of_text>", "<end_of_text>"}


def test_a_run_moves_tokens_from_what_it_started_from(run_with: Callable[..., Path], trained: Path) -> None:
    run = open_encoder(settings_of("text=x", f"run_dir={run_with(f'network.weights={trained}')}"))
    base = build_parts(read_trained(trained))
    load_weights(trained, base)
    assert isinstance(base.text_encoder, TextEncoder)
    assert run.start is not None
    assert torch.equal(run.start, list_token_vectors(base.text_encoder))


def test_other_first_vectors_are_not_taken_for_the_run_s(trained: Path) -> None:
    run, config = open_encoder(settings_of("text=x", f"run_dir={trained}")), read_trained(trained)
    assert rebuild_start(config, trained, run.encoder, run.learned) is not None
    assert rebuild_start(config.with_values(seed=config.seed + 1), trained, run.encoder, run.learned) is None


def test_rebuilding_leaves_the_random_numbers_alone(trained: Path) -> None:
    before = torch.get_rng_state()
    run, config = open_encoder(settings_of("text=x", f"run_dir={trained}")), read_trained(trained)
    torch.set_rng_state(before)
    rebuild_start(config, trained, run.encoder, run.learned)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_projector_reads_what_is_written(tmp_path: Path) -> None:
    source = opened()
    source = OpenedEncoder(source.encoder, "", start=2 * list_token_vectors(source.encoder))
    write_projector(source, ["cat", "Dreamshape", " ", "a red\tfox"], tmp_path)
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    tables = {
        entry.tensor_path: torch.tensor(
            [
                [float(value) for value in line.split("\t")]
                for line in (tmp_path / entry.tensor_path).read_text().splitlines()
            ]
        )
        for entry in config.embeddings
    }
    assert [list(entry.tensor_shape) for entry in config.embeddings] == [[3, 16]] * 3
    vectors = list_token_vectors(source.encoder)
    assert_close(tables["before.tsv"][:2], torch.stack([vectors[2368], vectors[[4595, 6448]].mean(0)]))
    assert_close(tables["after.tsv"][1], embed_pieces(source.encoder, "Dreamshape").mean(0))
    assert_close(tables["start.tsv"], 2 * tables["before.tsv"])
    for entry in config.embeddings:
        labels = (tmp_path / entry.metadata_path).read_text().splitlines()
        assert labels == ["word\ttokens", "cat\t1", "Dreamshape\t2", "a red fox\t3"]
    assert {(entry.sprite.image_path, *entry.sprite.single_image_dim) for entry in config.embeddings} == {
        ("sprites.png", 128, 128)
    }
    write_projector(opened(), ["cat"], tmp_path)
    assert not (tmp_path / "start.tsv").exists()


@pytest.mark.parametrize(
    "words", [["cat"], ["cat", "dog"], ["cat", "dog", "red", "cat"], ["cat", "dog", "red", "fox", "cat"]]
)
def test_the_sheet_has_a_square_for_each_word_where_the_projector_looks(words: list[str], tmp_path: Path) -> None:
    write_projector(opened(), words, tmp_path)
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    [(width, height)] = {tuple(entry.sprite.single_image_dim) for entry in config.embeddings}
    with Image.open(tmp_path / "sprites.png") as sheet:
        per_row, per_column = sheet.width // width, sheet.height // height
        assert (per_row * width, per_column * height) == sheet.size
        assert per_row == per_column == ceil(sqrt(len(words)))
        assert max(sheet.size) <= 8192
        squares = [
            sheet.crop((column * width, row * height, (column + 1) * width, (row + 1) * height)).tobytes()
            for row in range(per_column)
            for column in range(per_row)
        ]
    blank = bytes([255]) * len(squares[0])
    assert blank not in squares[: len(words)]
    assert set(squares[len(words) :]) <= {blank}
    same = [[one == other for other in words] for one in words]
    assert [[one == other for other in squares[: len(words)]] for one in squares[: len(words)]] == same


def test_tensorboard_serves_what_is_written(tmp_path: Path) -> None:
    source = opened()
    write_projector(source, ["cat", "dog"], tmp_path)
    plugin = ProjectorPlugin(TBContext(logdir=str(tmp_path)))
    routes = plugin.get_plugin_apps()

    def ask(route: str, **query: object) -> bytes:
        answer = Client(routes[route]).get(query_string={"run": ".", **query})
        assert answer.status_code == 200, answer.text
        return answer.data

    assert json.loads(ask("/runs")) == ["."]
    names = [entry["tensorName"] for entry in json.loads(ask("/info"))["embeddings"]]
    assert names == ["before the transformer", "after the transformer"]
    stored = list_token_vectors(source.encoder)[[split_text(source.encoder, word)[0].number for word in ("cat", "dog")]]
    served = torch.frombuffer(bytearray(ask("/tensor", name=names[0])), dtype=torch.float32).view(2, -1)
    assert_close(served, stored)
    for name in names:
        assert ask("/metadata", name=name, num_rows=2).decode().splitlines() == ["word\ttokens", "cat\t1", "dog\t1"]
        assert ask("/sprite_image", name=name) == (tmp_path / "sprites.png").read_bytes()


@pytest.mark.parametrize(
    ("count", "side"), [(1, 128), (4096, 128), (4097, 96), (7225, 96), (7226, 64), (16384, 64), (16385, None)]
)
def test_no_sheet_is_larger_than_the_projector_takes(count: int, side: int | None) -> None:
    assert choose_side(count) == side


def test_too_many_words_have_no_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_projector(opened(), ["cat"], tmp_path)
    monkeypatch.setattr(projector_files, "LARGEST_SHEET", 63)
    assert "sprites.png" not in write_projector(opened(), ["cat"], tmp_path)
    assert not (tmp_path / "sprites.png").exists()
    assert "sprite" not in (tmp_path / "projector_config.pbtxt").read_text()


def test_the_words_say_what_was_near_before_and_is_now(trained: Path) -> None:
    run = open_encoder(settings_of("text=x", f"run_dir={trained}"))
    assert run.start is not None
    facts = examine_text(run, "black fox black", neighbours=2)
    [line] = describe_moves(facts)  # fox was never learned
    black = facts.tokens[0]
    assert black.moved is not None
    assert f"black by {black.moved[0]:.0%}" in line
    number, known = black.piece.number, run.learned
    assert known is not None
    [first] = find_neighbours(run.start, [number], known, count=2)
    assert [text for text, _ in black.first_neighbours] == [
        one.text for one in spell_tokens(run.encoder, [n for n, _ in first])
    ]
    assert all(text in line for text, _ in [*black.first_neighbours, *black.neighbours])


def test_the_command_prints_and_writes(ldm_train: Callable, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("black\nred\n")
    words = [
        SUIT,
        f"run_dir={trained}",
        f"out={tmp_path}/page.html",
        f"words={tmp_path}/words.txt",
        f"projector={tmp_path}/p",
    ]
    answer = ldm_train("tokens", *words)
    assert answer.code == 0, answer.err
    assert re.search(r"^3 +wearing +3309 ", answer.out, re.MULTILINE)
    assert "\x1b" not in answer.out
    page = (tmp_path / "page.html").read_text()
    assert {"3309", "wearing", SUIT} <= {*re.split(r"[<>“”]", page)}
    again = ldm_train("tokens", *words)
    assert (again.code, (tmp_path / "page.html").read_text()) == (0, page)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([SUIT], "text_encoder=clip_vit_l_14"),
        (["text_encoder=small"], "words=FILE"),
        ([SUIT, "text_encoder=class_labels", "text_encoder.classes=[cat,dog]"], "cat, dog"),
        ([SUIT, "text_encoder=small", "words=[cat]"], "projector=DIR"),
        ([SUIT, "text_encoder=small", "projector=x"], "words=FILE"),
        ([SUIT, "text_encoder=small", "out=page.png"], "out=page.html"),
        (["text_encoder=small", "words=[cat]", "projector=x", "out=page.html"], "out=page.html"),
        ([SUIT, "run_dir=nowhere"], "nowhere"),
        ([SUIT, "run_dir=nowhere", "text_encoder=small"], "run_dir=DIR"),
    ],
    ids=range(9),
)
def test_what_cannot_be_done_is_refused(
    ldm_train: Callable, words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ldm_train("tokens", *words)
    assert answer.code == 1
    assert named in answer.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_a_user_s_is_written_over(ldm_train: Callable, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("mine")
    (tmp_path / "labels.tsv").write_text("mine")
    for word, named in ((f"out={tmp_path}/page.html", "page.html"), (f"projector={tmp_path}", "labels.tsv")):
        answer = ldm_train("tokens", SUIT, "text_encoder=small", word, *["words=[cat]"] * word.startswith("projector"))
        assert answer.code == 1
        assert named in answer.err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"page.html": "mine", "labels.tsv": "mine"}


@pytest.mark.parametrize("text", ["", "   ", "[a]", "a=b c", "[red] it's \x1b[31m"])
def test_any_text_can_be_looked_at(ldm_train: Callable, text: str, tmp_path: Path) -> None:
    answer = ldm_train("tokens", f"text={text}", "text_encoder=small", f"out={tmp_path}/page.html")
    assert answer.code == 0, answer.err
    assert "\x1b" not in answer.out
