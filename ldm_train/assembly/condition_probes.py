"""Call an own condition once where it is built, and once with the data, so that what it returns wrongly is named."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ldm_train.assembly.parts import is_shipped
from ldm_train.assembly.probing import UnfitError, attempt, describe, expect, expect_floats, require
from ldm_train.conditioners.condition import Condition
from ldm_train.conditioners.inpaint import Inpaint
from ldm_train.conditioners.low_resolution import LowResolution
from ldm_train.conditioners.map import Map
from ldm_train.settings.schema.options import Part
from ldm_train.types import ConditionedExamples, Conditioning, Given

TWO = 2  # examples
SIZE, LATENT_SIZE = (32, 48), (8, 12)  # of pictures and of latents


def probe_condition(condition: Any) -> None:
    """Raise an `UnfitError` if `absent` or `forward` of a condition returns something of another kind or shape."""
    for word, base in (("takes_map", Map), ("takes_mask", Inpaint), ("takes_picture", LowResolution)):
        fits = not getattr(condition, word) or isinstance(condition, base)
        require(fits, f"{word} is for classes that are derived from {base.__module__}.{base.__name__}; leave it out")
    identity = condition.identity
    require(isinstance(identity, dict), f"identity must be a dict of plain values, and is {describe(identity)}")
    try:
        json.dumps(identity)
    except (TypeError, ValueError) as error:
        raise UnfitError(f"identity must hold plain values only ({error})") from error
    absent = condition.absent(TWO, size=SIZE, latent_size=LATENT_SIZE)
    given = expect_given(absent, TWO, f"absent({TWO}, …)")
    expect_conditioning(condition(given.values, given.kept), condition)


def expect_given(found: object, count: int, of: str) -> Given:
    """Return what is known of `count` examples, or raise an `UnfitError` if it is something else."""
    require(isinstance(found, Given), f"{of} must return a Given, and returned {describe(found)}")
    assert isinstance(found, Given)
    require(isinstance(found.values, Tensor), f"values of what {of} returns must be a tensor, not {describe(found.values)}")
    expect(found.values, (count, *found.values.shape[1:]), f"values of what {of} returns")
    kept = expect(found.kept, (count,), f"kept of what {of} returns")
    require(kept.dtype == torch.bool, f"kept of what {of} returns must be of torch.bool, and is {kept.dtype}")
    return found


def expect_conditioning(found: object, condition: Condition) -> None:
    """Raise an `UnfitError` if `forward` returned anything but the tokens, vector and maps that a condition announces."""
    require(isinstance(found, Conditioning), f"forward must return a Conditioning, and returned {describe(found)}")
    assert isinstance(found, Conditioning)
    length = found.tokens.shape[1:2] if isinstance(found.tokens, Tensor) else ()
    if found.mask is not None:
        require(found.tokens is not None, "forward returns a mask, but no tokens that it hides")
        expect(found.mask, (TWO, *length), "mask of what forward returns")
    width, tokens = condition.token_width, found.tokens
    require((tokens is None) == (width == 0), f"token_width={width}, but forward returns tokens={describe(tokens)}")
    if tokens is not None:
        expect_floats(tokens, (TWO, *length, width), "tokens of what forward returns")
    for name, setting, size in (("vector", "vector_width", ()), ("maps", "map_channels", LATENT_SIZE)):
        width, value = getattr(condition, setting), getattr(found, name)
        require((value is None) == (width == 0), f"{setting}={width}, but forward returns {name}={describe(value)}")
        if width:
            expect_floats(value, (TWO, width, *size), f"{name} of what forward returns")


def probe_reading(conditions: Sequence[Condition], parts: Sequence[Part], examples: ConditionedExamples) -> None:
    """Raise if an own condition fails with the data, or returns something of another kind or shape for its first example.

    Raises:
        ValueError: it names the class, the method, and what it must return.
    """
    for condition, part in zip(conditions, parts, strict=True):
        if not is_shipped(part):
            attempt(f"condition._target_={part.target}", partial(_probe_reading, condition, examples))


def _probe_reading(condition: Condition, examples: ConditionedExamples) -> None:
    read = condition.read(examples)
    require(callable(read), f"read must return a function of examples and views, and returned {describe(read)}")
    first = torch.zeros(TWO, dtype=torch.int64)
    given = expect_given(read(first, first), TWO, "what read returns")
    if not condition.map_channels:
        absent = condition.absent(TWO, size=SIZE, latent_size=LATENT_SIZE)
        expect(given.values, absent.values.shape, "values of what read returns, which must be like those of absent,")
        expect_conditioning(condition(given.values, given.kept), condition)
