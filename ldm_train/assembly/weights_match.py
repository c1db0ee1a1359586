"""Compare published weights with a run's network: raise for each setting that differs, with what to set."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from ldm_train.assembly.parts import Parts
from ldm_train.assembly.pipeline_layouts import count_channels, find_layout_of_channels
from ldm_train.conditioners.condition import Conditions
from ldm_train.networks.unet import UNet
from ldm_train.settings.schema.options import Part
from ldm_train.util.messages import Caution
from ldm_train.weights.layouts.unet_architecture import (
    UNetSettings,
    describe_unet,
    infer_heads,
    infer_unet_settings,
    list_unet_differences,
    read_unet_config,
)
from ldm_train.weights.published_parts import PublishedPart

ELSEWHERE = {
    "in_channels": "an autoencoder of as many channels",
    "context_width": "the text encoder that it was trained with",
    "vector_width": "the text encoder that it was trained with",
}


def refuse_maps(found: PublishedPart, own: int) -> None:
    """Raise for a network with more input channels than the noisy latents and what the run's conditions fill.

    Raises:
        ValueError: it is one; it says which condition fills them.
    """
    there = infer_unet_settings(found.shapes)
    more = there.get("map_channels", 0)
    if more <= own:
        return
    layout = find_layout_of_channels(more)
    what = layout.maps if layout is not None else {3: "a small picture to enlarge"}.get(more, "maps")
    mend = f"set conditions=[{layout.option}], also for encode, or " if layout is not None and not own else ""
    raise ValueError(
        f"it is another network, {describe_unet(there, found.shapes)}: next to noisy latents it takes "
        f"{count_channels(more)} ({what}), and the conditions of this run give {own or 'none'}; "
        f"{mend}choose weights that draw from {'these conditions' if own else 'captions alone'}"
    )


def warn_of_other_condition(found: PublishedPart, conditions: Conditions) -> list[str]:
    """Return a warning if published weights of a known layout are given maps of as many channels, but of another kind."""
    layout = find_layout_of_channels(infer_unet_settings(found.shapes).get("map_channels", 0))
    maps = [one for one in conditions.each if one.map_channels]
    if layout is None or not maps or (len(maps) == 1 and layout.fits(maps[0])):
        return []
    return [
        Caution(
            f"weights of as many input channels are published for {layout.maps}, as conditions=[{layout.option}] gives, and "
            f"this run gives {', '.join(one.name for one in maps)} otherwise; set conditions=[{layout.option}], unless the "
            "network was trained so"
        )
    ]


def describe_own_unet(network: Part, parts: Parts) -> UNetSettings:
    """Return the settings of the run's network that can be inferred from published weights too."""
    defaults = {name: p.default for name, p in inspect.signature(UNet).parameters.items()}
    given: dict[str, Any] = defaults | network.arguments
    channels, flags = given["channels"], given["attention"]
    heads = [given["heads"] or width // given["head_size"] for width in channels]
    middle = flags[-1] if given["middle_attention"] is None else given["middle_attention"]
    return {
        **{name: given[name] for name in UNetSettings.__annotations__ if name in given},  # type: ignore[typeddict-item]
        "heads": [count if flag else None for count, flag in zip(heads, [*flags[:-1], flags[-1] or middle], strict=True)],
        "middle_attention": middle,
        "only_cross_attention": given["only_cross_attention"] or [False] * len(channels),
        "in_channels": parts.autoencoder.channels,
        "context_width": parts.text_encoder.context_width,
        # Those of the network: conditions add to them, whatever its settings and its text encoder say.
        "map_channels": getattr(parts.network, "map_channels", 0),
        "vector_width": getattr(parts.network, "vector_width", parts.text_encoder.vector_width),
    }


def compare_unet(found: PublishedPart, own: UNetSettings, *, adding: bool) -> list[str]:
    """Raise for weights of another network, naming the settings that differ; return notes about what the weights cannot say.

    Raises:
        ValueError: there is such a setting.
    """
    there = infer_unet_settings(found.shapes)
    if found.config is not None:
        there |= read_unet_config(found.config)
    elif heads := infer_heads(there, found.shapes):
        there["heads"] = list(heads)
    there |= {"patch_size": 1, "extra_up_block": True}
    if adding and own["map_channels"] > there.get("map_channels", 0):
        del there["map_channels"]
    if other := list_unet_differences(there, own):
        raise ValueError(
            f"it is another network, {describe_unet(there, found.shapes)}: "
            f"{'; '.join(other)}; {suggest_settings(there, own)}"
        )
    if "heads" in there:
        return []
    return [
        f"no file tells the number of attention heads: by network.heads or network.head_size the levels have {own['heads']}"
    ]


def suggest_settings(there: UNetSettings, own: UNetSettings) -> str:
    """Return what to set so that the run's network is the one whose weights were found."""
    wrong = [name for name, value in there.items() if list_unet_differences({name: value}, own)]
    words = [
        f"network.{name}={value}".replace(" ", "").replace("None", "null").replace("True", "true")
        for name, value in there.items()
        if name in wrong and name not in (*ELSEWHERE, "heads")
    ]
    words = [word.replace("False", "false") for word in words]
    if "heads" in wrong:
        words.append(words_for_heads(there))
    if "map_channels" in wrong:
        words.append("or network.add_input_channels=true, which adds them with zeros")
    other = sorted({ELSEWHERE[name] for name in wrong if name in ELSEWHERE})
    return " and ".join(
        [*(["choose " + ", and ".join(other)] if other else []), *(["set " + " ".join(words)] if words else [])]
    )


def words_for_heads(there: UNetSettings) -> str:
    """Return the setting that gives a network these attention heads, if there is one."""
    heads, channels = there["heads"], there.get("channels")
    if len(set(heads)) == 1:
        return f"network.heads={heads[0]}"
    sizes = {c // h for c, h in zip(channels or [], heads, strict=True) if h}
    return f"network.heads=null network.head_size={sizes.pop()}" if len(sizes) == 1 else f"heads of {heads}, which cannot be"


def refuse_other_groups(network: nn.Module, groups: object) -> None:
    """Raise if the weights' group normalisations have another number of groups than the network's.

    Raises:
        ValueError: they do.
    """
    own = sorted({module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)})
    if own != [groups]:
        raise ValueError(
            f"its group normalisations have {groups} groups everywhere, and this network's {' and '.join(map(str, own))} at "
            "its widths; network=diffusers_unet takes any"
        )


def refuse_other_config(found: PublishedPart, own: Mapping[str, Any]) -> None:
    """Raise if the config of diffusers' network differs in a setting that changes its output.

    Raises:
        ValueError: it does.
    """
    free = {"sample_size", "in_channels", "upcast_attention", "dropout", "encoder_hid_dim_type"}
    names = [n for n in (found.config or {}) if n in own and not n.startswith("_") and n not in free]
    plain = {n: list(own[n]) if isinstance(own[n], tuple) else own[n] for n in names}
    there = {name: (found.config or {})[name] for name in names}
    if other := list_unet_differences(there, plain):
        raise ValueError(f"it is another network: {'; '.join(other[:5])}; set network.… so")
