"""How a run reads a prompt: its tokens, which of them are cut, and which its captions never had."""

from dataclasses import dataclass

from ldm_train.assembly.learned_tokens import read_learned
from ldm_train.assembly.stored_run import TrainedRun
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.conditioners.token_pieces import split_text
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.messages import Caution, collecting_messages

_learned: dict[str, frozenset[int] | None] = {}  # by the caches that the captions are in


@dataclass(frozen=True)
class PromptToken:
    """One token: what it spells, its number, whether it is read, and whether a caption had it (None: not known)."""

    text: str
    number: int
    kept: bool
    learned: bool | None


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of a prompt, and how many the run reads."""

    tokens: list[PromptToken]
    capacity: int

    def list_notes(self) -> list[str]:
        """Return warnings of words that are cut, and of those that were never trained."""
        cut = [token.text for token in self.tokens if not token.kept]
        new = dict.fromkeys(token.text for token in self.tokens if token.kept and token.learned is False)
        notes = [f"cut, since only {self.capacity} tokens are read: {' '.join(cut)}"] * bool(cut)
        notes += [f"in no caption of the run, so never trained: {' '.join(new)}"] * bool(new)
        return [*map(Caution, notes)]


def list_prompt_tokens(trained: TrainedRun, prompt: str) -> PromptTokens | None:
    """Return the tokens of a prompt; None if the run reads no texts."""
    encoder = trained.parts.text_encoder
    if not isinstance(encoder, TextEncoder):
        return None
    learned = read_numbers(trained.config) if is_trained(encoder) else None
    return PromptTokens(
        [
            PromptToken(
                piece.text, piece.number, place < encoder.capacity, None if learned is None else piece.number in learned
            )
            for place, piece in enumerate(split_text(encoder, prompt))
        ],
        encoder.capacity,
    )


def is_trained(encoder: TextEncoder) -> bool:
    """Return whether the run trained the vectors of its tokens, so that some of them were never trained."""
    return any(parameter.requires_grad for parameter in encoder.parameters())


def read_numbers(config: TrainSettings) -> frozenset[int] | None:
    """Return the numbers of all tokens in a run's captions, read once; None if they cannot be read."""
    key = str(config.cache)
    if key not in _learned:
        with collecting_messages():
            found = read_learned(config)
        _learned[key] = None if found is None else frozenset(found.tolist())
    return _learned[key]
