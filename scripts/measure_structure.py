"""Measure how hard a checkout is to read: lines per room, imports, names that mean two things, and words of the style table.

    python scripts/measure_structure.py                     # this checkout
    python scripts/measure_structure.py --checkout OTHER    # another one, such as an earlier commit in a worktree
    python scripts/measure_structure.py --out docs/results/structure.json --before OTHER

Only the source is read; nothing is imported.
"""

import argparse
import ast
import json
import re
from collections import Counter
from pathlib import Path

from measuring import write_results

PACKAGE = "ldm_train"
TRAIN = ("ldm_train.commands.train.command", "ldm_train.tasks.train")
WORDS = {  # of the table in the style guide, as they were used
    "told": r"\btold\b",
    "beside": r"\bbeside\b",
    "of ours, of theirs": r"\bof (ours|theirs)\b",
    "in place of": r"\bin place of\b",
    "where there is": r"\bwhere there (is|are)\b",
    "that which": r"\bthat which\b",
}
Imports = dict[str, set[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--before", type=Path, help="an earlier checkout, whose figures are written next to this one's")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    figures = {"now": measure(arguments.checkout)}
    if arguments.before is not None:
        figures["before"] = measure(arguments.before)
    write_results(arguments.out, figures)
    print(json.dumps(figures, indent=1))


def measure(checkout: Path) -> dict[str, object]:
    """Return the figures of a checkout."""
    files = sorted((checkout / PACKAGE).rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    modules = {module_name(path, checkout): path for path in files}
    imports = {name: imported(trees[path], modules) - {name} for name, path in modules.items()}
    lines = Counter[str]()
    for path, text in texts.items():
        lines[path.relative_to(checkout / PACKAGE).parts[0].removesuffix(".py")] += len(text.splitlines())
    names = Counter(path.name for path in files if path.name not in ("__init__.py", "command.py"))
    public = Counter(name for tree in trees.values() for name in public_names(tree))
    return {
        "lines": sum(lines.values()),
        "lines_per_room": dict(sorted(lines.items())),
        "modules": len(files),
        "modules_that_train_imports": len(reached(next(name for name in TRAIN if name in modules), imports)),
        "functions_that_take_a_DictConfig": sum(takes_config(node) for tree in trees.values() for node in ast.walk(tree)),
        "file_names_in_two_folders": sum(count > 1 for count in names.values()),
        "public_names": len(public),
        "public_names_defined_twice": sum(count > 1 for count in public.values()),
        "modules_in_circles": len(in_circles(imports)),
        "words": {word: sum(len(re.findall(rule, text)) for text in texts.values()) for word, rule in WORDS.items()},
        "words_in_README": len((checkout / "README.md").read_text(encoding="utf-8").split()),
        "lines_of_tests": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in checkout.glob("tests/**/*.py")),
    }


def module_name(path: Path, checkout: Path) -> str:
    """Return the dotted name of a file of the package."""
    return ".".join(path.relative_to(checkout).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST, modules: dict[str, Path]) -> set[str]:
    """Return the package's modules that a file imports, at any depth of the file."""
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {name if (name := f"{node.module}.{alias.name}") in modules else node.module for alias in node.names}
    return found & modules.keys()


def reached(start: str, imports: Imports) -> set[str]:
    """Return all modules that one imports, at any distance, with itself."""
    found, waiting = {start}, [start]
    while waiting:
        new = imports[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def in_circles(imports: Imports) -> set[str]:
    """Return the modules that import themselves through others."""
    return {name for name in imports if any(name in reached(other, imports) for other in imports[name])}


def takes_config(node: ast.AST) -> bool:
    """Return whether a function has an argument of the type DictConfig."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return any("DictConfig" in ast.unparse(one.annotation) for one in arguments if one.annotation is not None)


def public_names(tree: ast.Module) -> set[str]:
    """Return the public functions and classes of a module; `run` is each command's entry."""
    kinds = ast.FunctionDef | ast.ClassDef
    names = {node.name for node in tree.body if isinstance(node, kinds)}
    return {name for name in names if not name.startswith("_") and name != "run"}


if __name__ == "__main__":
    main()
