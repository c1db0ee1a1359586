"""Read the arguments of a constructor from its source, since importing it would import torch and delay an answer."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Union

NO_ARGUMENTS = {"ABC", "Protocol", "object", "nn.Module", "torch.nn.Module"}  # bases whose constructors take nothing
# Functions and classes that get a constructor's further arguments.
FURTHER = {
    "ldm_train.networks.diffusers_unet.DiffusersUNet": "diffusers.models.unets.unet_2d_condition.UNet2DConditionModel",
    "ldm_train.training.loggers.wandb.Wandb": "wandb.sdk.wandb_init.init",
}


@dataclass(frozen=True)
class Signature:
    """The arguments of a constructor.

    Args:
        kinds: the type of each argument, by its name; `Any` if its annotation says nothing that a config can hold.
        further: whether it takes others with unknown names.
    """

    kinds: dict[str, object]
    further: bool = False


@cache
def signature(target: str) -> Signature | None:
    """Of a function or class by its full name; None where its source does not tell."""
    found = _find(target)
    own = None if found is None else _of(*found)
    if own is None or not own.further or target not in FURTHER:
        return own
    more = signature(FURTHER[target])
    return own if more is None else Signature({**more.kinds, **own.kinds}, more.further)


def _find(target: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The definition of a name and the module that holds it, through as many imports as it takes."""
    module, _, name = target.rpartition(".")
    tree = _parsed(module)
    if tree is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
    origin = _imported(module, tree).get(name)
    return None if origin in (None, target) else _find(origin)


def _of(module: str, node: ast.ClassDef | ast.FunctionDef) -> Signature | None:
    if isinstance(node, ast.FunctionDef):
        return _arguments(module, node)
    for own in node.body:
        if isinstance(own, ast.FunctionDef) and own.name == "__init__":
            return _arguments(module, own, method=True)
    bases = [base for base in map(ast.unparse, node.bases) if base.partition("[")[0] not in NO_ARGUMENTS]
    inherited = [_base(module, base) for base in bases[:1]]
    if None in inherited:
        return None
    before = {name: value for found in inherited if found for name, value in found.kinds.items()}
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return Signature(before | dict(_fields(module, node)))
    return inherited[0] if inherited else Signature({})


def _base(module: str, base: str) -> Signature | None:
    tree = _parsed(module)
    assert tree is not None
    first, _, rest = base.partition(".")
    origin = _imported(module, tree).get(first, f"{module}.{first}")
    return signature(f"{origin}.{rest}" if rest else origin)


def _arguments(module: str, node: ast.FunctionDef, *, method: bool = False) -> Signature:
    plain = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(plain) - len(node.args.defaults)) + node.args.defaults + node.args.kw_defaults
    every = list(zip([*plain, *node.args.kwonlyargs], defaults, strict=True))[method:]
    kinds = {one.arg: _kind(module, one.annotation, default) for one, default in every}
    return Signature(kinds, node.args.kwarg is not None)


def _fields(module: str, node: ast.ClassDef) -> Iterator[tuple[str, object]]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and "ClassVar" not in ast.dump(line):
            yield line.target.id, _kind(module, line.annotation, line.value)


PLAIN: dict[str, object] = {"bool": bool, "int": int, "float": float, "str": str, "Path": str, "None": None}
CONTAINERS: dict[str, object] = {"list": list, "Sequence": list, "Iterable": list, "dict": dict, "Mapping": dict}


def _kind(module: str, annotation: ast.expr | None, default: ast.expr | None) -> object:
    """Return the type of an argument as far as a config can hold it; null is accepted if it is the default."""
    kind = Any if annotation is None else _read(_Choices(module).visit(annotation))
    if isinstance(default, ast.Constant) and default.value is None and kind is not Any:
        return _union([kind, None])
    return kind


@dataclass(frozen=True)
class _Choices(ast.NodeTransformer):
    """Replace the names of choices in an annotation, such as `Lines`, by their definitions, `Literal["each", "one"]`."""

    module: str

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return _find_choices(self.module, node.id) or node


def _find_choices(module: str, name: str) -> ast.expr | None:
    """Return the `Literal` that a module assigns to a name, or imports from another module of the package."""
    tree = _parsed(module)
    if tree is None:
        return None
    for line in tree.body:
        match line:
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Subscript(value=ast.Name(id="Literal")) as value):
                if found == name:
                    return value
    origin, _, original = _imported(module, tree).get(name, "").rpartition(".")
    return _find_choices(origin, original) if origin.startswith("ldm_train.") and origin != module else None


def _read(node: ast.expr) -> Any:
    """Return the type that an annotation writes; `Any` for what a config cannot hold. Nothing of it is run."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return _read(ast.parse(text, mode="eval").body)
        case ast.Name(id=name):
            return CONTAINERS.get(name, PLAIN.get(name, Any))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _union([_read(left), _read(right)])
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _union([_read(inner), None])
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=members)):
            return _union([_read(one) for one in members])
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            values = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return Literal[tuple(one.value for one in values if isinstance(one, ast.Constant))]
        case ast.Subscript(value=ast.Name(id="Sequence" | "list" | "Iterable"), slice=inner):
            return list[_read(inner)]  # type: ignore[misc]
    return Any


def _union(members: list[Any]) -> Any:
    return Any if Any in members else Union[tuple(members)]  # noqa: UP007 -- members are values


def _imported(module: str, tree: ast.Module) -> dict[str, str]:
    """What a module's own imports call what, by full names."""
    found: dict[str, str] = {}
    package = module if _file(module, package=True) else module.rpartition(".")[0]
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(part for part in (above, node.module) if part)
            found |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}
    return found


@cache
def _parsed(module: str) -> ast.Module | None:
    path = _file(module, package=True) or _file(module, package=False)
    return None if path is None else ast.parse(path.read_text(encoding="utf-8"))


def _file(module: str, *, package: bool) -> Path | None:
    """A module's source: of a package its `__init__.py`; nothing but the first name is looked up by Python."""
    first, *rest = module.split(".")
    spec = find_spec(first) if first else None
    if spec is not None and not spec.submodule_search_locations and not rest and not package and spec.has_location:
        file = Path(str(spec.origin))
        return file if file.suffix == ".py" and file.is_file() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    place = Path(spec.submodule_search_locations[0], *rest)
    path = place / "__init__.py" if package else place.with_suffix(".py")
    return path if path.is_file() else None
