"""Write the README's tables of measured results from docs/results.

    python scripts/renew_readme.py

The manual's tables are made when it is built; see scripts/build_manual.py.
"""

from pathlib import Path

from manual import tables_quality, tables_speed

README = Path(__file__).parent.parent / "README.md"
SECTIONS = {"quickstart": tables_quality.quickstart, "speed": tables_speed.step}


def renew(readme: str) -> str:
    """Return a README with the tables as they should be."""
    for name, make_table in SECTIONS.items():
        start, end = f"<!-- {name}: made by scripts/renew_readme.py -->\n", f"<!-- end of {name} -->\n"
        before, marker, rest = readme.partition(start)
        assert marker, f"the README has no {start}"
        table = make_table().replace("](results/", "](docs/results/")
        readme = f"{before}{start}\n{table}\n\n{end}{rest.partition(end)[2]}"
    return readme


if __name__ == "__main__":
    README.write_text(renew(README.read_text(encoding="utf-8")), encoding="utf-8")
