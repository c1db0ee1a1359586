"""Turn captions into token ids by a text encoder that may be own code, and say which caption it fails for."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 2**31 - 1  # ids are stored as int32


class Tokenizes(Protocol):
    """The part of a text encoder that is used here."""

    def tokenize(self, captions: list[str]) -> "Tensor": ...


def tokenize(conditioner: Tokenizes, captions: list[str]) -> "Tensor":
    """Return the token ids (B, L) of captions.

    Raises:
        ValueError: own code fails for a caption, which the message has, or returns other ids than can be stored.
    """
    if type(conditioner).__module__.startswith("ldm_train.") or not captions:
        return conditioner.tokenize(captions)
    name = f"{type(conditioner).__name__}.tokenize"
    try:
        ids = conditioner.tokenize(captions)
    except Exception:
        for caption in dict.fromkeys(captions):
            try:
                conditioner.tokenize([caption])
            except Exception as error:
                raise ValueError(f"{name} fails for {caption!r:.100} ({type(error).__name__}: {error})") from error
        raise
    expected = (len(captions), conditioner.tokenize([""]).shape[1])
    if tuple(ids.shape) != expected:
        raise ValueError(
            f"{name} must return as many ids for any caption as for the empty one: {expected} for {len(captions)} captions "
            f"such as {captions[0]!r:.100}, and returned {tuple(ids.shape)}"
        )
    if not -LARGEST <= ids.min().item() <= ids.max().item() <= LARGEST:
        raise ValueError(f"{name} returned ids up to {ids.abs().max().item():,}; ids are stored up to {LARGEST:,}")
    return ids
