"""Print the tokens of a text as a table, and say what is cut."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ldm_train.commands.tokens.token_facts import TextFacts, TokenFacts
from ldm_train.reports.safe_text import fit_line
from ldm_train.util.text import shorten


def print_tokens(facts: TextFacts, console: Console) -> None:
    """Print a text's tokens."""
    for line in describe_context(facts):
        console.print(escape(fit_line(line)), highlight=False)
    names, rows = tabulate_tokens(facts)
    if rows:
        shown = Table(*names, box=None, padding=(0, 2, 0, 0), header_style="bold")
        for token, row in zip(facts.tokens, rows, strict=True):
            shown.add_row(*map(escape, row), style="dim" if token.place is None else None)
        console.print(shown)
    for line in describe_numbers(facts):
        console.print(escape(fit_line(line)), highlight=False)


def describe_context(facts: TextFacts) -> Iterator[str]:
    """Yield sentences about how much of the text is read."""
    encoder, count, kept = facts.encoder, len(facts.tokens), len(facts.kept)
    length = encoder.chunks * encoder.context_length
    chunks = f"{encoder.chunks} chunks of {encoder.context_length}" if encoder.chunks > 1 else f"{length}"
    yield (
        f"{count:,} token{'s' * (count != 1)} of {facts.words:,} word{'s' * (facts.words != 1)}; {encoder.capacity} fit: "
        f"the context has {chunks}, with a start and an end token{' in each' if encoder.chunks > 1 else ''}"
    )
    if count > kept:
        first = facts.tokens[kept]
        yield (
            f"cut: the text from {shorten(first.word[1])!r} on, its word {first.word[0]:,}: {count - kept:,} tokens that "
            "the network never sees"
        )
    elif kept < encoder.capacity:
        yield f"the other {encoder.capacity - kept} places are filled with the end token and token {encoder.pad_token}"


def describe_numbers(facts: TextFacts) -> Iterator[str]:
    """Yield sentences about what the columns of the table mean."""
    if any(token.neighbours for token in facts.tokens):
        width = facts.encoder.context_width
        yield f"nearest: the cosine of the angle between the vectors, of {width} numbers, among {facts.compared}"
    if facts.opened.start is not None:
        others = (
            "" if facts.unlearned is None else f"; weight decay moved tokens that are in no caption by {facts.unlearned:.2%}"
        )
        yield f"moved: how far training moved the vector, as a share of its length before{others}"
        yield from describe_moves(facts)
    if any(token.learned is False for token in facts.tokens):
        yield "not learned: no caption of the run has this token, so its vector was never taught anything"


def describe_moves(facts: TextFacts) -> Iterator[str]:
    """Yield a sentence for each word of the text that training moved: how far, and what was near it before and is now."""
    seen = set()
    for token in facts.tokens:
        if token.moved is None or token.learned is False or not token.neighbours or token.piece.number in seen:
            continue
        seen.add(token.piece.number)
        before, now = (join_texts(near[:2]) for near in (token.first_neighbours, token.neighbours))
        near = f"nearest to it are still {now}" if before == now else f"nearest to it were {before}, and now are {now}"
        yield f"training moved {token.piece.text} by {token.moved[0]:.0%} of its length; {near}"


def join_texts(neighbours: Sequence[tuple[str, float]]) -> str:
    """Return tokens without their cosines."""
    return " and ".join(text for text, _ in neighbours)


def tabulate_tokens(facts: TextFacts) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, and a row for each token."""
    names = ["place", "token", "number", "word"]
    moved, near = facts.opened.start is not None, any(token.neighbours for token in facts.tokens)
    names += ["moved"] * moved + ["nearest"] * near
    return names, [[fit_line(cell) for cell in _row(token, moved=moved, near=near)] for token in facts.tokens]


def _row(token: TokenFacts, *, moved: bool, near: bool) -> list[str]:
    place = "cut" if token.place is None else str(token.place)
    row = [place, token.piece.text, str(token.piece.number), f"{token.word[0]} {shorten(token.word[1])}"]
    if moved:
        row.append("" if token.moved is None else f"{token.moved[0]:.1%}")
    if near:
        row.append("not learned" if token.learned is False else format_neighbours(token.neighbours))
    return row


def format_neighbours(neighbours: Sequence[tuple[str, float]]) -> str:
    """Return tokens with their cosines."""
    return ", ".join(f"{text} {cosine:.2f}" for text, cosine in neighbours)
