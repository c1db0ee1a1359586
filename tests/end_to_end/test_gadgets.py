"""Configs that came from somewhere else: whatever they name, nothing of it runs and nothing is written."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ldm_train.assembly.cache_identity import restore_part
from ldm_train.data.cache.manifest import read_manifest
from ldm_train.settings.constructors import build, check_config, check_constructors
from ldm_train.settings.schema.options import Part, read_part
from ldm_train.settings.trust import Grants, granted, read_grants

CANARY = "canary"
NOTHING = hashlib.sha256().hexdigest()


def gadgets(canary: Path) -> dict[str, dict[str, object]]:
    """Mappings that would make a file if they were built, and one that would only import or bind something."""
    touch = ["touch", str(canary)]
    job = {"_target_": "ldm_train.assembly.child_processes.Jobs"}
    return {
        "a method of ours": {"_target_": "ldm_train.assembly.child_processes.Jobs.run", "self": job, "command": touch},
        "a method, positional": {"_target_": "ldm_train.assembly.child_processes.Jobs.run", "_args_": [job, touch]},
        "a class of ours": job,
        "a function of ours": {"_target_": "ldm_train.util.files.atomic_write", "path": str(canary), "content": "x"},
        "another group's class": {"_target_": "ldm_train.metrics.evaluation.HeldOut"},
        "a process": {"_target_": "subprocess.Popen", "args": touch},
        "a shell": {"_target_": "os.system", "_args_": [f"touch {canary}"]},
        "what a module of ours imports": {"_target_": "ldm_train.cli.sweep.sys.exit"},
        "python": {"_target_": "builtins.eval", "_args_": [f"open({str(canary)!r}, 'w')"]},
        "an indirection": {"_target_": "hydra.utils.get_method", "path": "os.system"},
        "a pickle": {"_target_": "torch.load", "f": str(canary), "weights_only": False},
        "code of a hub": {"_target_": "torch.hub.load", "repo_or_dir": str(canary.parent), "model": "x", "source": "local"},
        "bound only": {"_target_": "os.system", "_partial_": True},
        "a command as a source": {"_target_": "ldm_train.data.sources.tar_shards.TarShards", "path": f"pipe:touch {canary}"},
        "arguments alone": {"_args_": touch},
        "recursion": {"_recursive_": False, "a": 1},
        "a file of a name": {"_target_": f"{canary.stem}_module.run"},
        "no text": {"_target_": ["os.system"]},
        "no name": {"_target_": "os.system; import"},
    }


PLACES: dict[str, Callable[[object], dict[str, object]]] = {
    "a group": lambda bad: {"sampler": bad},
    "a value": lambda bad: {"sampler": {"_target_": "ldm_train.samplers.ddim.DDIM", "eta": bad}},
    "a list": lambda bad: {"network": {"_target_": "ldm_train.networks.unet.UNet", "channels": [16, bad]}},
    "a mapping": lambda bad: {"source": {"_target_": "ldm_train.data.sources.folder.Folder", "path": {"a": [{"b": bad}]}}},
    "an object's place": lambda bad: {
        "weighting": {"_target_": "ldm_train.diffusion.weighting.LearnedLogVariance", "base": bad}
    },
    "a setting": lambda bad: {"max_steps": bad},
    "a section": lambda bad: {"pictures": {"prompts": [bad]}},
    "the trainer": lambda bad: {"trainer": {"plugins": [bad]}},
}


def passed_by(check: Callable[[], object], match: str = "") -> bool:
    """Whether a check lets pass what it is given, or refuses it with other words than these."""
    try:
        check()
    except (ValueError, AssertionError) as error:
        return match not in str(error)
    return True


@pytest.mark.parametrize("place", PLACES)
def test_no_gadget_passes_at_any_place_and_nothing_is_imported(place: str, tmp_path: Path) -> None:
    configs = {name: OmegaConf.create(PLACES[place](gadget)) for name, gadget in gadgets(tmp_path / CANARY).items()}
    read = {name: partial(check_config, config, origin="config.yaml") for name, config in configs.items()}
    [group] = {str(next(iter(config))) for config in configs.values()}
    parts = {name: read_part(group, OmegaConf.to_container(config)[group]) for name, config in configs.items()}
    built = {name: partial(build, part, group) for name, part in parts.items() if isinstance(part, Part)}
    assert [name for name, check in read.items() if passed_by(check, "nothing was run")] == []
    assert [name for name, check in built.items() if passed_by(check)] == []
    assert not (tmp_path / CANARY).exists()


def test_a_constructor_in_its_own_place_is_built() -> None:
    base = {"_target_": "ldm_train.diffusion.weighting.MinSNR", "gamma": 4.0}
    part = Part("ldm_train.diffusion.weighting.LearnedLogVariance", {"base": base})
    assert build(part, "weighting").base.gamma == 4.0


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_samplers.py").write_text(
        f"import os\nopen({str(tmp_path / 'imported')!r}, 'w').close()\n"
        "from subprocess import Popen\nfrom ldm_train.samplers.base import Sampler\n"
        "class Mine(Sampler):\n    def __init__(self, eta=0.0):\n        self.eta = eta\n"
        "    def step(self, step):\n        return step.x_t\n    def run(self):\n        pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_samplers"


def test_own_code_needs_trust_which_the_message_names(own_package: str, tmp_path: Path) -> None:
    part = Part(f"{own_package}.Mine", {"eta": {"_target_": f"{own_package}.Mine"}})
    with pytest.raises(ValueError, match=rf"trust={own_package} .*with your rights"):
        build(part, "sampler")
    assert not (tmp_path / "imported").exists()
    with granted(Grants((own_package,))):
        assert type(build(part, "sampler").eta).__name__ == "Mine"


@pytest.mark.parametrize("name", ["Popen", "os.system", "Mine.run", "missing"])
def test_trust_in_a_package_is_none_in_what_it_imports(name: str, own_package: str) -> None:
    with granted(Grants((own_package,))), pytest.raises(ValueError, match=name):
        build(Part(f"{own_package}.{name}", {}), "sampler")


def test_trust_is_read_from_words() -> None:
    assert read_grants(["trust=a", "trust=[b.c,d]", "seed=1"]) == Grants(("a", "b.c", "d"))
    assert read_grants(["source.path=x"]) == Grants(commands=True)


@pytest.mark.parametrize(
    "package",
    ["os", "builtins", "ldm_train", "torch", "", "a;b", "*", "numpy", "fsspec", "os.path", "a.", ".a", "a..b", "[a,os]"],
)
def test_what_runs_any_command_is_never_trusted(package: str, ldm_train: Callable) -> None:
    assert ldm_train("runs", "dir=x", f"trust={package}").code == 2


# --- every place that a config is read from ---


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder with the digest of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


@pytest.fixture
def nothing_happens(ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Run a command line, which must be refused with this in its message, and leave everything as it was."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, says: str) -> None:
        before = tree(tmp_path)
        answer = ldm_train(*words)
        assert answer.code in (1, 2), answer.out
        assert says in answer.err
        assert "Traceback" not in answer.err
        assert not (tmp_path / CANARY).exists()
        assert tree(tmp_path) == before

    return run


CHOSEN = {
    "a method of ours": "weighting.base",
    "a shell": "prediction",
    "a process": "network.dropout",
    "python": "pictures.prompts",
    "a class of ours": "evaluation",
}


@pytest.fixture(params=CHOSEN)
def bad_run(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> tuple[Path, str]:
    """A run directory with a gadget in its config, and the name in the gadget."""
    folder, gadget = tmp_path / "run", gadgets(tmp_path / CANARY)[request.param]
    shutil.copytree(trained, folder)
    config = OmegaConf.load(folder / "config.yaml")
    place = CHOSEN[request.param]
    if place == "weighting.base":
        config.weighting = {"_target_": "ldm_train.diffusion.weighting.LearnedLogVariance", "base": None}
    OmegaConf.update(config, place, gadget, merge=False)
    OmegaConf.save(config, folder / "config.yaml")
    return folder, str(gadget["_target_"])


def test_a_run_directory(bad_run: tuple[Path, str], trained: Path, cache: Path, nothing_happens: Callable) -> None:
    folder, says = bad_run
    drawing = ["prompts=[x]", "out=out", "steps=2"]
    nothing_happens("sample", f"run_dir={folder}", *drawing, says=says)
    nothing_happens("evaluate", f"run_dir={folder}", "out=out.json", "features=null", says=says)
    nothing_happens("export", f"run_dir={folder}", "out=out.safetensors", says=says)
    nothing_happens("export", f"run_dir={folder}", "out=out", "layout=diffusers", says=says)
    weak = ["guidance=autoguidance", f"guidance.weak={folder}"]
    nothing_happens("sample", f"run_dir={trained}", *drawing, *weak, says=says)
    nothing_happens("sample", f"run_dir={trained}", *drawing, f"adapters=[{folder}]", says=says)


def test_a_run_that_is_continued_or_stood_on(
    bad_run: tuple[Path, str], cache: Path, train_words: list[str], nothing_happens: Callable
) -> None:
    folder, says = bad_run
    nothing_happens("train", f"cache={cache}", f"run_dir={folder}", *train_words, "max_steps=9", says=says)
    nothing_happens("train", f"cache={cache}", "run_dir=new", *train_words, f"network.weights={folder}", says=says)


def test_what_only_lists_runs_builds_nothing(bad_run: tuple[Path, str], ldm_train: Callable, tmp_path: Path) -> None:
    folder, _ = bad_run
    before = tree(tmp_path)
    assert ldm_train("runs", tmp_path).code == 0
    assert ldm_train("report", f"run_dir={folder}", f"out={tmp_path}/page.html").code == 0
    assert tree(tmp_path) == before | {"page.html": tree(tmp_path)["page.html"]}


FILES = {
    "sampler: {_target_: ldm_train.assembly.child_processes.Jobs.run, "
    "self: {_target_: ldm_train.assembly.child_processes.Jobs}}": "Jobs",
    "sampler: {_target_: os.system, _args_: [touch canary]}": "os.system",
    "sampler: {eta: {_target_: subprocess.Popen, args: [touch, canary]}}": "subprocess.Popen",
    "trust: own_samplers": "trust",
    "trust: [own_samplers]\nsampler: {_target_: own_samplers.Mine}": "trust",
    "sampler: {_target_: own_samplers.Mine}": "trust=own_samplers",
    "hydra: {searchpath: [file:///tmp]}": "hydra",
    "out: ${oc.env:HOME}": "interpolation",
    "out: ${oc.decode:x}": "interpolation",
    "'a}=1 trust': x": "trust",
    "logger: {settings: {x_executable: touch}}": "logger.settings",
}


@pytest.mark.parametrize("text", FILES)
def test_a_config_file(text: str, own_package: str, nothing_happens: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    nothing_happens("sample", "run_dir=run", "prompts=[x]", "out=out", "config=mine.yaml", says=FILES[text])
    assert not (tmp_path / "imported").exists()


PIPES = ["pipe:touch canary", "{pipe,pipe}:touch canary", "a.tar::pipe:touch canary", "gs://x/touch.tar", "sftp://x/a.tar"]


@pytest.mark.parametrize("path", PIPES)
@pytest.mark.parametrize("verb", ["encode", "check", "train"])
def test_a_command_as_a_source_in_a_config_file(verb: str, path: str, nothing_happens: Callable, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    text = f"source: webdataset\n---\nsource: {{path: '{path}', download: kept}}\n".split("---\n")
    target = "_target_: ldm_train.data.sources.tar_shards.TarShards"
    (tmp_path / "mine.yaml").write_text(text[1].replace("{path", f"{{{target}, path"))
    words = {
        "encode": ["cache=cache", "autoencoder=identity"],
        "check": ["autoencoder=identity"],
        "train": ["cache=null", "run_dir=run", "autoencoder=identity", "text_encoder=small", "image_size=16"],
    }[verb]
    nothing_happens(verb, "config=mine.yaml", *words, says="command line")


def test_a_loader_that_unpickles_is_refused(nothing_happens: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("source: huggingface\n")
    words = ["config=mine.yaml", "source.path=pandas", "source.data_files=evil.pkl", "cache=cache", "autoencoder=identity"]
    nothing_happens("encode", *words, says="pandas")


def test_a_command_as_a_source_that_was_typed(ldm_train: Callable, tmp_path: Path) -> None:
    words = ["source=webdataset", f"source.path='pipe:touch {tmp_path}/{CANARY}'", f"source.download={tmp_path}/kept"]
    ldm_train("encode", *words, f"cache={tmp_path}/cache", "autoencoder=identity")
    assert (tmp_path / CANARY).exists()


@pytest.mark.parametrize("part", ["autoencoder", "text_encoder"])
@pytest.mark.parametrize("name", ["a method of ours", "a shell", "a command as a source"])
def test_a_cache(
    part: str, name: str, cache: Path, trained: Path, train_words: list[str], nothing_happens: Callable, tmp_path: Path
) -> None:
    folder, gadget = tmp_path / "cache", gadgets(tmp_path / CANARY)[name]
    shutil.copytree(cache, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[part]["config"] = gadget
    (folder / "manifest.json").write_text(json.dumps(manifest))
    says = str(gadget["_target_"])
    nothing_happens("train", f"cache={folder}", "run_dir=run", *train_words, says=says)
    with pytest.raises(ValueError, match=re.escape(says)):
        build(restore_part(read_manifest(folder), part, cache=folder), part)
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trust": "own_samplers"}, "trust"),
        ({"shards": {"../x": {"rows": 1, "sha256": NOTHING}}}, "../x"),
        ({"files": {"/etc/passwd": NOTHING}}, "/etc/passwd"),
        ({"image_size": "${oc.env:HOME}"}, "image_size"),
        ({"autoencoder": 5}, "autoencoder"),
        ({"autoencoder": {"config": {}}}, "autoencoder"),
    ],
)
def test_a_manifest_of_other_values(
    change: dict[str, object], says: str, cache: Path, train_words: list[str], nothing_happens: Callable, tmp_path: Path
) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    manifest = json.loads((tmp_path / "cache/manifest.json").read_text()) | change
    (tmp_path / "cache/manifest.json").write_text(json.dumps(manifest))
    nothing_happens("train", "cache=cache", "run_dir=run", *train_words, says=says)


def test_a_folder_of_weights(
    trained: Path, cache: Path, train_words: list[str], nothing_happens: Callable, tmp_path: Path
) -> None:
    """A published part, its card, an adapter of peft's, and a pipeline: only known class names are accepted in them."""
    bad = gadgets(tmp_path / CANARY)["a shell"]
    folder = tmp_path / "part"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", "act_fn": bad} | bad))
    (folder / "README.md").write_text(
        f"---\nlibrary_name: {{_target_: os.system, _args_: [touch {tmp_path}/{CANARY}]}}\n---\n"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_class": bad, "auto_mapping": bad}))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "os.system", "unet": ["os", "system"]}))
    train = ["train", f"cache={cache}", "run_dir=run", *train_words]
    nothing_happens(*train, f"network.weights={folder}", says="part")
    nothing_happens("sample", f"run_dir={trained}", "prompts=[x]", "out=out", f"adapters=[{folder}]", says="part")
    nothing_happens("evaluate", f"pipeline={folder}", "out=out.json", "prompts=[x]", "samples=1", says="part")


def test_a_table_of_a_sweep(nothing_happens: Callable, tmp_path: Path) -> None:
    bad = gadgets(tmp_path / CANARY)["a shell"]
    (tmp_path / "out").mkdir()
    jobs = [{"swept": {"seed": "0"}, "directory": bad, "words": ["train", bad], "code": 0, "metrics": {"loss": bad}}]
    (tmp_path / "out/sweep.json").write_text(json.dumps({"jobs": jobs}))
    nothing_happens("train", "-m", "seed=0,1", "cache=x", "run_dir=out", says="sweep.json")


def test_check_constructors_knows_no_group_of_plain_values() -> None:
    check_constructors({"a": [1, {"b": "c"}]}, None, name="plain")
