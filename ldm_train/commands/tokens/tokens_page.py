"""The page about the tokens of a text."""

from torch import Tensor

from ldm_train.commands.tokens.token_facts import TextFacts
from ldm_train.commands.tokens.token_lines import describe_context, describe_numbers, tabulate_tokens
from ldm_train.reports.page import Page, PageSection, Verdict
from ldm_train.reports.page_blocks import DataTable, PageBlock, Paragraphs

MOST_COMPARED = 20  # tokens that are compared with each other
SPLIT = (
    "A text encoder reads no letters. It splits a text into words, and each word into the longest pieces of its vocabulary: "
    "a frequent word is one token, a rare one several. Each token is a number, and the number stands for a vector."
)
BEFORE = (
    "Each token's vector is looked up in a table. Tokens of related meaning have vectors that point in nearly the same "
    "direction once the table has been trained; the cosine is 1 for the same direction and 0 for unrelated ones."
)
AFTER = (
    "The transformer then lets each token look at those before it. Afterwards a vector says what a token means in this "
    "text, and these vectors are what the network attends to."
)


def build_tokens_page(facts: TextFacts) -> Page:
    """Return the page about a text's tokens."""
    encoder, cut = facts.encoder, len(facts.tokens) - len(facts.kept)
    names, rows = tabulate_tokens(facts)
    verdict = Verdict(ok=not cut, text=f"{cut:,} tokens are cut" if cut else "all tokens of this text are read")
    summary = [
        ("tokens", f"{len(facts.tokens):,}"),
        ("words", f"{facts.words:,}"),
        ("places for tokens", f"{encoder.capacity:,}"),
        ("numbers of a vector", f"{encoder.context_width:,}"),
    ]
    table = DataTable(names, rows, numeric=["place", "number"], max_rows=100)
    sections = [
        PageSection("How the text is split", [Paragraphs([*describe_context(facts)]), table], SPLIT),
        PageSection("What the columns say", [Paragraphs([*describe_numbers(facts)])]),
        *_compare(facts),
    ]
    return Page(f"Tokens of “{facts.text}”, by {facts.opened.origin}", verdict, summary, sections)


def _compare(facts: TextFacts) -> list[PageSection]:
    if not 1 < len(facts.kept) <= MOST_COMPARED:
        return []
    before, after = facts.similarities
    return [
        PageSection("Tokens compared, before the transformer", [_table(facts, before)], BEFORE),
        PageSection("Tokens compared, after the transformer", [_table(facts, after)], AFTER),
    ]


def _table(facts: TextFacts, cosines: Tensor) -> PageBlock:
    texts = [f"{token.place} {token.piece.text}" for token in facts.kept]
    rows = [[text, *(f"{value:.2f}" for value in row)] for text, row in zip(texts, cosines.tolist(), strict=True)]
    return DataTable(["", *texts], rows, numeric=texts)
