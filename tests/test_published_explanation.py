"""The published explanation of a quick start run: it needs no other file, is small, and names nothing of a machine."""

import re
from pathlib import Path

import pytest

from ldm_train.reports.page import is_page

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "pages" / "quickstart-explained.html"
TEXT = re.sub(r"data:image/\w+;base64,[A-Za-z0-9+/=]+", "", PAGE.read_text(encoding="utf-8"))
LINKS = re.findall(r"pages/quickstart-explained\.html#([\w-]+)", (DOCS / "explain.md").read_text(encoding="utf-8"))


def test_it_has_no_path_of_a_machine() -> None:
    paths = (
        r"(?<![\w<.])/(?:home|root|tmp|work|mnt|data|var|opt|srv|usr|Users|private|workspace)/|[A-Z]:\\\\|file://|outputs/"
    )
    assert re.findall(paths, TEXT) == []


def test_it_is_small_and_loads_nothing() -> None:
    assert is_page(PAGE)
    assert PAGE.stat().st_size < 2.5e6
    assert re.findall(r"(?:src|href)=[\"'](?!#)[^\"']*[\"']", TEXT) == ['src=""'] * TEXT.count('src=""')


@pytest.mark.parametrize("anchor", sorted({*LINKS}))
def test_each_answer_leads_to_a_part_of_it(anchor: str) -> None:
    assert f'id="{anchor}"' in TEXT


def test_ten_questions_are_answered_with_links() -> None:
    page = (DOCS / "explain.md").read_text(encoding="utf-8")
    questions = page.partition("## Ten questions")[2].partition("\n## ")[0].split("\n### ")[1:]
    assert len(questions) == 10
    for question in questions:
        assert question.splitlines()[0].endswith("?")
        assert "](" in question
        assert question.count(". ") + question.count(".\n") >= 2
