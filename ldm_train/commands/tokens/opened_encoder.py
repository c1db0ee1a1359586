"""Open a text encoder: a run's, with its vectors of before the training, or a published one."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm_train.assembly.learned_tokens import read_learned
from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.stored_weights import load_first_weights, load_weights
from ldm_train.conditioners.caption_encoder import CaptionEncoder
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.conditioners.token_pieces import list_token_vectors
from ldm_train.run_dir.moved_paths import explaining_paths, relocated
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import TokensSettings
from ldm_train.util.messages import note, note_all

UNCHANGED = 0.999  # cosine; a token that no caption has is at most scaled by weight decay


@dataclass(frozen=True)
class OpenedEncoder:
    """A text encoder, ready to be looked at.

    Args:
        origin: what it is, in words.
        trained: whether a run trained it, so that tokens that no caption has are as they were drawn.
        learned: the numbers of the tokens in the run's captions; None if they are not known.
        start: the vectors of the tokens before the training, (V, D); None if nothing trained them, or they are not known.
    """

    encoder: TextEncoder
    origin: str
    trained: bool = False
    learned: Tensor | None = None
    start: Tensor | None = None


def open_encoder(settings: TokensSettings) -> OpenedEncoder:
    """Open the text encoder that the settings name.

    Raises:
        ValueError: it is given twice or not at all, cannot be opened, or reads no text.
    """
    if (settings.run_dir is None) == (settings.text_encoder is None):
        raise ValueError(
            "tokens needs one text encoder: run_dir=DIR of a trained run, or text_encoder=clip_vit_l_14 or another one"
        )
    if settings.run_dir is not None:
        with relocated(settings.moved):
            return _open_run(Path(settings.run_dir), str(settings.weights))
    assert settings.text_encoder is not None
    encoder = require_text(build(settings.text_encoder, "text_encoder"), "text_encoder")
    note_all(encoder.notes)
    if encoder.trained and settings.text_encoder.get("weights") is None:
        note("note: this text encoder is not trained yet: its vectors are random numbers, and so are their neighbours")
    return OpenedEncoder(encoder.eval(), settings.text_encoder.target.rpartition(".")[2])


def require_text(conditioner: nn.Module, setting: str) -> TextEncoder:
    """Return a conditioner if it is a text encoder.

    Raises:
        ValueError: it has no tokens, or those of another vocabulary.
    """
    if isinstance(conditioner, TextEncoder):
        return conditioner
    if isinstance(conditioner, CaptionEncoder):
        raise ValueError(
            f"{setting} is a {type(conditioner).__name__}; tokens reads a text encoder with CLIP's vocabulary, such as "
            "text_encoder=small or text_encoder=clip_vit_l_14"
        )
    classes = getattr(conditioner, "classes", None)
    known = f"; its classes are {', '.join(classes[:20])}" if classes else ""
    raise ValueError(
        f"{setting} has no tokens: it is conditioned by {type(conditioner).__name__}, which reads no text{known}"
    )


def _open_run(run_dir: Path, weights: str) -> OpenedEncoder:
    config = read_trained(run_dir)
    with explaining_paths(config, run_dir):
        parts = build_parts(config)
        encoder = require_text(parts.text_encoder, f"run_dir={run_dir}")
        step = load_weights(run_dir, parts, weights=weights)
    trained = any(parameter.requires_grad for parameter in encoder.parameters())
    origin = f"{run_dir} at step {step:,}" + ("" if trained else ", whose text encoder is not trained")
    if not trained:
        return OpenedEncoder(encoder.eval(), origin)
    learned = read_learned(config)
    return OpenedEncoder(encoder.eval(), origin, True, learned, rebuild_start(config, run_dir, encoder, learned))


def rebuild_start(config: TrainSettings, run_dir: Path, encoder: TextEncoder, learned: Tensor | None) -> Tensor | None:
    """Return the tokens' vectors of before the training, (V, D), built again from the run's seed or its first weights.

    Tokens that no caption has are not trained, so their vectors show whether these are the run's. None if they are not.
    """
    try:
        first = require_text(build_first_parts(config, run_dir).text_encoder, f"run_dir={run_dir}")
    except (ValueError, OSError) as error:
        note(f"note: what the run started from cannot be built again, so how far tokens moved is left out: {error}")
        return None
    start, now = list_token_vectors(first), list_token_vectors(encoder)
    others = torch.ones(len(start), dtype=torch.bool)
    if learned is not None:
        others[learned] = False
    if start.shape != now.shape or torch.cosine_similarity(start, now)[others].median() < UNCHANGED:
        note(
            "note: the vectors that the run started from cannot be confirmed (another version may have drawn other "
            "numbers), so how far tokens moved is left out"
        )
        return None
    return start


def build_first_parts(config: TrainSettings, run_dir: Path) -> Parts:
    """Return the parts of a run as they were before its first step."""
    with torch.random.fork_rng(devices=[]), explaining_paths(config, run_dir):
        torch.manual_seed(config.seed)
        parts = build_parts(config)
        if config.network.get("weights") is not None:
            load_first_weights(config, parts)
    return parts
