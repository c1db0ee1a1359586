"""Load the weights of stored runs and whatever they stand on.

The recursion: a run that trains a part of its network (parameters by name, or adapters) stores only that part; the rest are
the weights that its setting `network.weights` names, which may be another such run, an exported file, or published weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm_train.assembly.control import attach_control, has_control
from ldm_train.assembly.parts import Parts
from ldm_train.assembly.published_weights import describe_training, load_published
from ldm_train.assembly.trained_for import warn_of_other_purpose
from ldm_train.assembly.trained_part import alpha_of, base_fingerprint, has_lora, is_partial, trainable
from ldm_train.run_dir.record import CONFIG, LAST, RECORD, read_record
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.trust import is_from_python
from ldm_train.training.checkpoints.checkpoint_files import refuse_damaged
from ldm_train.training.checkpoints.sharded_checkpoint import whole
from ldm_train.training.run_files import RUN_ID, check_same_run
from ldm_train.util.messages import note_all
from ldm_train.util.processes import launched_rank
from ldm_train.util.text import as_word, list_names
from ldm_train.weights.fingerprint import fingerprint_module
from ldm_train.weights.hub import locate_weights
from ldm_train.weights.layouts.unet_architecture import describe_unet, infer_unet_settings
from ldm_train.weights.leftovers import describe_leftovers
from ldm_train.weights.lora.low_rank import WeightedAdapter, extract_adapter, merge_adapters
from ldm_train.weights.part_folders import find_part_folder
from ldm_train.weights.published_parts import RAW_VARIANT, find_unet
from ldm_train.weights.tensor_files import read_metadata, read_tensor_file

NEW_WORDS = "token_embedding.learned"  # of a text encoder, begins at zero


def load_weights(run_dir: Path, parts: Parts, *, weights: str = "ema") -> int:
    """Load trained weights into the parts, and return the step that they are from.

    Args:
        weights: "ema" or "raw" of the run's checkpoint, or an exported file.

    Raises:
        ValueError: no weights there, or another network's.
    """
    state, step, path = read_weights(run_dir, weights)
    state = complete_weights(state, run_dir, parts)
    for prefix, module in parts.trained().items():
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if not own and prefix == "weighting.":
            continue  # a run that starts from another one's weights may weigh its loss in another way
        expected = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
        wrong = sorted({n for n in expected if n not in own or own[n].shape != expected[n]} | (own.keys() - expected.keys()))
        wrong = [name for name in wrong if name in own or not name.endswith(NEW_WORDS)]  # which what is started from lacks
        if wrong:
            raise ValueError(
                f"{path} was trained with another {prefix.rstrip('.')}: "
                f"missing, left over or of another shape are {list_names(wrong)}"
            )
        module.load_state_dict(own, strict=False)
    return step


def load_weights_of_start(run_dir: Path, parts: Parts, *, weights: str, warnings: Sequence[str]) -> int:
    """Load the weights that a run starts from; an error also has the warnings, which say why they do not fit."""
    try:
        return load_weights(run_dir, parts, weights=weights)
    except ValueError as error:
        raise ValueError("\n".join([str(error), *warnings])) from error


def read_weights(run_dir: Path, weights: str) -> tuple[Mapping[str, Tensor], int, Path]:
    """Return trained weights by their names in a run, the step that they are from, and the file that holds them.

    Raises:
        ValueError: no checkpoint or file there, or weights neither "ema" nor "raw" nor a file's name.
    """
    if weights.endswith(".safetensors"):
        path = Path(weights)
        if not path.is_file():
            words = f"{as_word('run_dir', run_dir)} {as_word('out', weights)}"
            raise ValueError(f"weights={weights} is not there; `ldm-train export {words}` makes it")
        metadata = read_metadata(path)
        if "weights" not in metadata:
            raise ValueError(f"weights={weights} was not written by `ldm-train export`: it does not tell its step")
        return read_tensor_file(path), metadata["step"], path
    checkpoint = read_checkpoint(run_dir)
    if weights not in ("ema", "raw"):
        raise ValueError(
            f"weights={weights} is not known; a checkpoint holds ema (averaged) and raw, "
            "and `ldm-train export` writes FILE.safetensors"
        )
    state = checkpoint["callbacks"]["EMA"]["average"] if weights == "ema" else checkpoint["state_dict"]
    return state, checkpoint["global_step"], run_dir / LAST


def read_checkpoint(run_dir: Path) -> dict[str, Any]:
    """Read a run's last checkpoint into the CPU's memory.

    Raises:
        ValueError: there is none, it is damaged, it is another run's, or it cannot be read without running code from it.
    """
    path = run_dir / LAST
    if not path.is_file():
        raise ValueError(f"{run_dir} is not a trained run: {path} is not there")
    refuse_damaged(path, run_dir=run_dir)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found = whole({name: value for name, value in checkpoint.items() if name != "optimizer_states"}, path)
    except Exception as error:  # unpickling reports damage by many classes
        raise ValueError(f"{path} cannot be read as a checkpoint of this project: {str(error).splitlines()[0]}") from error
    check_same_run(run_dir, {path: found.get(RUN_ID)})
    return found


def load_first_weights(config: TrainSettings, parts: Parts) -> list[str]:
    """Load the weights that `network.weights` names into the parts, and return the lines to print.

    Raises:
        ValueError: they are nowhere, not to be trusted, or those of another network.
    """
    weights, averaged = str(config.network.get("weights")), bool(config.network.get("averaged", True))
    path = Path(weights)
    if is_run(path):
        warnings = warn_of_other_purpose(path, config, parts)  # by the encoders before they are given weights
        step = load_weights_of_start(path, parts, weights="ema" if averaged else "raw", warnings=warnings)
        return [f"starting from the {'averaged' if averaged else 'raw'} weights of {weights} at its step {step}", *warnings]
    if path.suffix == ".safetensors" and path.is_file() and "weights" in read_metadata(path):
        warnings = warn_of_other_purpose(path, config, parts)
        step = load_weights_of_start(path.parent, parts, weights=weights, warnings=warnings)
        return [f"starting from the weights in {weights}, of step {step}", *warnings]
    name = "diffusion_pytorch_model" if averaged else f"diffusion_pytorch_model.{RAW_VARIANT}"
    path = locate_weights(weights, setting="network.weights", subfolder="unet", name=name)
    try:
        found = find_unet(path, averaged=averaged)
        notes = load_published(found, parts, config)
    except ValueError as error:
        raise ValueError(f"network.weights={weights}: {error}") from error
    kind = "averaged weights" if found.averaged else "weights"
    looks = describe_unet(infer_unet_settings(found.shapes), found.shapes)
    first = f"starting from the {kind} of {weights}: {looks}, in {found.layout}, {len(found.tensors)} tensors"
    return [first, *describe_leftovers(found.ignored), *notes, *describe_training(found, config, parts)]


def is_run(path: Path) -> bool:
    """Return whether a folder is a run directory, or at least not one that other programs write."""
    part = find_part_folder(path, "unet")
    published = any(f.is_file() for f in (part / "config.json", path / "model_index.json")) or any(
        part.glob("*.safetensors")
    )
    return path.is_dir() and not published


def load_base(config: TrainSettings, parts: Parts) -> str | None:
    """Load the base weights of a run that trains a part, and return their fingerprint; None if the run trains everything.

    Raises:
        ValueError: it cannot be loaded, or leaves something random that is not trained.
    """
    if not is_partial(config):
        return None
    path, trained = Path(config.network.get("weights")), any(p.requires_grad for p in parts.text_encoder.parameters())
    whole = (path / CONFIG).is_file() or (
        path.is_file() and path.suffix == ".safetensors" and "weights" in read_metadata(path)
    )
    if trained and not whole and config.text_encoder is not None and config.text_encoder.get("weights") is None:
        raise ValueError(
            f"network.weights={path} is no run, from which the text encoder's weights would come, and "
            "text_encoder.weights names none: a part of a random one would stay as it is; set text_encoder=clip_… or weights"
        )
    notes = load_first_weights(config, parts)
    if launched_rank() == 0:
        note_all([*notes, f"keep {path}, which the files of this run, of what it trains only, need"])
    return base_fingerprint(parts)


def load_start(config: TrainSettings, parts: Parts) -> str | None:
    """Load what a run that trains all of its network starts from; return its fingerprint, or None if the seed draws it.

    Raises:
        ValueError: it cannot be loaded.
    """
    if is_partial(config):
        return None  # `load_base` loaded it
    if config.network.get("weights") is not None:
        note_all(load_first_weights(config, parts))
        return base_fingerprint(parts)
    if is_from_python(config.network.target):
        return fingerprint_module(parts.network)  # an instance has the weights that it was passed with
    given = parts.text_encoder.trained and config.text_encoder is not None and config.text_encoder.get("weights") is not None
    return fingerprint_module(parts.text_encoder) if given else None


def complete_weights(state: Mapping[str, Tensor], run_dir: Path, parts: Parts) -> Mapping[str, Tensor]:
    """Return a run's weights together with the base weights that it did not train, and with its adapters merged.

    Args:
        parts: the run's; they are given what it stands on, and its ControlNet.

    Raises:
        ValueError: what it stands on is not there, or is another than it was.
    """
    if not (run_dir / CONFIG).is_file():
        return state
    config, expected = read_trained(run_dir), trainable(parts)
    if not is_partial(config) or expected.keys() <= state.keys():
        return state
    base = config.network.get("weights")
    refuse_circle(run_dir, config)
    try:
        load_first_weights(config, parts)
    except ValueError as error:
        raise ValueError(f"{run_dir} stands on network.weights={base}, which cannot be loaded: {error}") from error
    refuse_other_base(run_dir, parts, base)
    weights = {name: p.detach() for name, p in expected.items()}
    if has_control(config):
        attach_control(config, parts, seed=0)
    if not has_lora(config):
        return weights | dict(state)
    adapter = WeightedAdapter(extract_adapter(state, alpha=alpha_of(config)), 1.0, str(run_dir))
    plain = {name: tensor for name, tensor in state.items() if ".lora_" not in name}
    return weights | plain | merge_adapters(weights, [adapter])


def refuse_circle(run_dir: Path, config: TrainSettings) -> None:
    """Raise if a run that trains a part stands on itself, through however many other runs.

    Raises:
        ValueError: it names the runs; or the config of one of them cannot be read.
    """
    chain = [run_dir]
    while is_partial(config) and (Path(str(config.network.get("weights"))) / CONFIG).is_file():
        base = Path(str(config.network.get("weights")))
        if base.resolve() in [one.resolve() for one in chain]:
            runs = ", ".join(map(str, [*chain[1:], base]))
            raise ValueError(
                f"{run_dir} stands on itself: network.weights in its config and on lead in a circle ({runs}); "
                f"set network.weights in {chain[-1] / CONFIG} to what that run was trained on"
            )
        chain.append(base)
        config = read_trained(base)


def refuse_other_base(run_dir: Path, parts: Parts, base: str) -> None:
    """Raise if the base weights changed since this run was trained."""
    path = run_dir / RECORD
    then = read_record(run_dir).get("base") if path.is_file() else None
    if then is None or any(p.is_meta for p in parts.network.parameters()):
        return
    if then != base_fingerprint(parts):
        raise ValueError(
            f"{run_dir} was trained on other weights than network.weights={base} has now; if that is a run that has gone "
            "on, put back the checkpoint that it had, or train on one that stays"
        )
