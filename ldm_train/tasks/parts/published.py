"""Where a network's first weights are from: another run, an exported file, or what others published in their layouts."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from ldm_train.networks.diffusers_unet import DiffusersUNet
from ldm_train.networks.unet import UNet
from ldm_train.tasks.parts.assemble import Parts, load_weights
from ldm_train.tasks.parts.promises import of_scheduler, promised
from ldm_train.weights.files import read_told
from ldm_train.weights.folders import part_of
from ldm_train.weights.hub import locate
from ldm_train.weights.loading import load
from ldm_train.weights.parts import Found, find_unet
from ldm_train.weights.pieces import Piece
from ldm_train.weights.unet_architecture import (
    Settings,
    differences,
    family,
    of_config,
    of_shapes,
    published_heads,
)
from ldm_train.weights.unet_layout import ours_of_theirs

ELSEWHERE = {
    "in_channels": "an autoencoder of as many channels",
    "context_width": "the text encoder that it was trained with",
    "vector_width": "the text encoder that it was trained with",
}


def start(config: DictConfig, parts: Parts) -> list[str]:
    """Give the parts the weights that `network.weights` names; what is to be told of them.

    Raises:
        ValueError: they are nowhere, not to be trusted, or those of another network.
    """
    weights, averaged = str(config.network.weights), bool(config.network.get("averaged", True))
    path = Path(weights)
    if is_run(path):
        step = load_weights(path, parts, weights="ema" if averaged else "raw")
        return [f"starting from the {'averaged' if averaged else 'raw'} weights of {weights} at its step {step}"]
    if path.suffix == ".safetensors" and path.is_file() and "weights" in read_told(path):
        return [f"starting from the weights in {weights}, of step {load_weights(path.parent, parts, weights=weights)}"]
    path = locate(weights, setting="network.weights", subfolder="unet", name="diffusion_pytorch_model")
    try:
        found = find_unet(path, averaged=averaged)
        told = take(found, parts, config)
    except ValueError as error:
        raise ValueError(f"network.weights={weights}: {error}") from error
    kind = "averaged weights" if found.averaged else "weights"
    looks = family(of_shapes(found.shapes), found.shapes)
    first = f"starting from the {kind} of {weights}: {looks}, in {found.layout}, {len(found.tensors)} tensors"
    return [first, *told, *of_training(found, parts)]


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, or none of those that others write."""
    part = part_of(path, "unet")
    published = any(f.is_file() for f in (part / "config.json", path / "model_index.json")) or any(
        part.glob("*.safetensors")
    )
    return path.is_dir() and not published


def take(found: Found, parts: Parts, config: DictConfig) -> list[str]:
    """Load them into the network, of whichever kind it is; what is to be told of it.

    Raises:
        ValueError: they are those of another network; it names the settings in which.
    """
    network, told, adding = parts.network, [], bool(config.network.get("add_input_channels", False))
    state = network.state_dict()
    if isinstance(network, DiffusersUNet):
        refuse_other_config(found, network.unet.config)
        table = {name: Piece((name.removeprefix("unet."),)) for name in state}
        stem = "unet.conv_in.weight"
    else:
        told = compare(found, own_settings(config.network, parts), adding=adding)
        refuse_other_groups(network, (found.config or {}).get("norm_num_groups", 32))
        table, stem = ours_of_theirs(state, found.tensors), "conv_in.weight"
    there = found.shapes.get("conv_in.weight", ())
    if adding and len(there) == 4 and (more := state[stem].shape[1] - there[1]) > 0:
        table[stem] = Piece(table[stem].names, more_columns=more)
        told.append(f"{more} input channels are added to it, with zeros for weights")
    load(state, table, found.tensors, found.shapes)
    return told


def own_settings(network: DictConfig, parts: Parts) -> Settings:
    """The config's network in the settings by which one is recognised."""
    defaults = {name: p.default for name, p in inspect.signature(UNet).parameters.items()}
    given: dict[str, Any] = defaults | {str(k): v for k, v in OmegaConf.to_container(network).items()}  # type: ignore[union-attr]
    channels, flags = given["channels"], given["attention"]
    heads = [given["heads"] or width // given["head_size"] for width in channels]
    middle = flags[-1] if given["middle_attention"] is None else given["middle_attention"]
    return given | {
        "heads": [count if flag else None for count, flag in zip(heads, [*flags[:-1], flags[-1] or middle], strict=True)],
        "middle_attention": middle,
        "only_cross_attention": given["only_cross_attention"] or [False] * len(channels),
        "in_channels": parts.autoencoder.channels,
        "context_width": parts.text_encoder.context_width,
        "vector_width": parts.text_encoder.vector_width,
    }


def compare(found: Found, own: Settings, *, adding: bool) -> list[str]:
    """Refuse weights of another network than one's own by the settings that differ; what they do not tell is told.

    Raises:
        ValueError: there is such a setting.
    """
    there = of_shapes(found.shapes)
    if found.config is not None:
        there |= of_config(found.config)
    elif heads := published_heads(there, found.shapes):
        there["heads"] = list(heads)
    there |= {"patch_size": 1, "extra_up_block": True}
    if adding and int(str(own["map_channels"])) > int(str(there.get("map_channels", 0))):
        del there["map_channels"]
    if other := differences(there, own):
        raise ValueError(f"it is another network, {family(there, found.shapes)}: {'; '.join(other)}; {mend(there, own)}")
    if "heads" in there:
        return []
    return [
        f"no file tells the number of attention heads: by network.heads or network.head_size the levels have {own['heads']}"
    ]


def mend(there: Settings, own: Settings) -> str:
    """What to set so that one's network is the one that was found."""
    wrong = [name for name in there if differences({name: there[name]}, own)]
    if "map_channels" in wrong and (more := int(str(there["map_channels"])) - int(str(own["map_channels"]))) > 0:
        return (
            f"choose weights of the plain model: these take {more} more input channels, of masks, depth or a smaller "
            "picture, which no data here give a network"
        )
    words = [
        f"network.{name}={there[name]}".replace(" ", "").replace("None", "null").replace("True", "true")
        for name in wrong
        if name not in (*ELSEWHERE, "heads")
    ]
    words = [word.replace("False", "false") for word in words]
    if "heads" in wrong:
        words.append(words_for_heads(there))
    if "map_channels" in wrong and int(str(own["map_channels"])) > int(str(there["map_channels"])):
        words.append("or network.add_input_channels=true, which adds them with zeros")
    other = sorted({ELSEWHERE[name] for name in wrong if name in ELSEWHERE})
    return " and ".join(
        [*(["choose " + ", and ".join(other)] if other else []), *(["set " + " ".join(words)] if words else [])]
    )


def words_for_heads(there: Settings) -> str:
    """The setting by which a network has these heads, as far as there is one."""
    heads, channels = there["heads"], there.get("channels")
    assert isinstance(heads, list)
    if len(set(heads)) == 1:
        return f"network.heads={heads[0]}"
    sizes = {c // h for c, h in zip(channels, heads, strict=True)} if isinstance(channels, list) else set()
    return f"network.heads=null network.head_size={sizes.pop()}" if len(sizes) == 1 else f"heads of {heads}, which cannot be"


def refuse_other_groups(network: nn.Module, groups: object) -> None:
    """Refuse weights whose normalisations have another number of groups than the network has at its widths.

    Raises:
        ValueError: they do.
    """
    own = sorted({module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)})
    if own != [groups]:
        raise ValueError(
            f"its group normalisations have {groups} groups everywhere, and this network's {' and '.join(map(str, own))} at "
            "its widths; network=diffusers_unet takes any"
        )


def refuse_other_config(found: Found, own: Mapping[str, Any]) -> None:
    """Refuse weights for diffusers' own network whose config differs in what decides its numbers.

    Raises:
        ValueError: it does.
    """
    free = {"sample_size", "in_channels", "upcast_attention", "dropout", "encoder_hid_dim_type"}
    names = [n for n in (found.config or {}) if n in own and not n.startswith("_") and n not in free]
    plain = {n: list(own[n]) if isinstance(own[n], tuple) else own[n] for n in names}
    there: Settings = {name: (found.config or {})[name] for name in names}
    if other := differences(there, plain):
        raise ValueError(f"it is another network: {'; '.join(other[:5])}; set network.… so")


def of_training(found: Found, parts: Parts) -> list[str]:
    """What is told of how it was trained: warnings where the run does otherwise, or that no file tells."""
    scheduler = of_scheduler(found.path)
    if scheduler is not None:
        return promised(scheduler, parts.prediction, parts.schedule)
    name = type(parts.prediction).__name__.lower()
    return [
        f"nothing beside it tells what it predicts, and prediction={name} is taken; Stable Diffusion 2.x at 768 pixels "
        "predicts velocity, all its other published models noise"
    ]
