"""Check that a run's captions contain the new words that it trains: a word in no caption would keep its initial vectors."""

from collections.abc import Sequence

import torch
from torch import nn

from ldm_train.assembly.prior import class_prompts
from ldm_train.assembly.watching import own_prompts
from ldm_train.conditioners.new_tokens import ExtendedEmbedding, parse_new_words
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.settings.schema.training import TrainSettings


def training_captions(text_encoder: nn.Module, data: CachedLatents, *, caches: int) -> list[list[str]]:
    """Return all captions of each training picture, if the text encoder has new words; else nothing, which costs nothing.

    Args:
        caches: how many of the data sets are of pictures that were given; class pictures follow them.
    """
    if not list_new_words(text_encoder):
        return []
    return [data.latents.captions_of(example) for example in torch.cat(data.train[:caches]).tolist()]


def list_new_words(text_encoder: nn.Module) -> dict[str, list[int]]:
    """Return the new words of a text encoder, and their tokens."""
    return text_encoder.words.ids if isinstance(text_encoder, TextEncoder) else {}


def check_new_words(config: TrainSettings, text_encoder: nn.Module, captions: Sequence[Sequence[str]]) -> list[str]:
    """Return warnings about the prompts of a run that is to learn new words, and about words that few captions have.

    Args:
        captions: all captions of each training picture.

    Raises:
        ValueError: a word is in no caption, so that nothing of it would be trained.
    """
    warnings = []
    for word in list_new_words(text_encoder):
        assert isinstance(text_encoder, TextEncoder)
        known = {text for text in {one for each in captions for one in each} if has_word(text_encoder, word, text)}
        count = sum(not known.isdisjoint(each) for each in captions)
        if not count:
            example = captions[0][0] if captions and captions[0] else ""
            raise ValueError(
                f"no training caption has the new word {word} among the tokens that are kept, so nothing of it would be "
                f"trained (the first of {len(captions)} pictures is captioned {example!r}). Write captions such as "
                f"'a photo of {word}' and encode again, or take {word} out of text_encoder.new_words"
            )
        if 2 * count < len(captions):
            warnings.append(f"the new word {word} is in the captions of {count} of {len(captions)} training pictures only")
        warnings += _check_prompts(config, text_encoder, word)
    return warnings


def _check_prompts(config: TrainSettings, text_encoder: TextEncoder, word: str) -> list[str]:
    """Return warnings about a run's prompts for pictures, and for class pictures."""
    warnings = []
    drawn = [prompt.text for prompt in own_prompts(config) or []]
    if drawn and not any(has_word(text_encoder, word, prompt) for prompt in drawn):
        warnings.append(f"none of pictures.prompts={drawn} has the new word {word}: the run's pictures will not show it")
    if config.prior.prompts is None:
        return warnings
    assert config.text_encoder is not None
    prompts, begins = class_prompts(config), parse_new_words(config.text_encoder.get("new_words"))[word].strip()
    if any(has_word(text_encoder, word, prompt) for prompt in prompts):
        warnings.append(
            f"prior.prompts={prompts} have the new word {word}, which the first weights do not know; describe the class "
            f"without it, such as 'a photo of a {begins}'"
        )
    elif not any(begins.casefold() in prompt.casefold() for prompt in prompts):
        warnings.append(f"none of prior.prompts={prompts} has {begins!r}, which the new word {word} begins as")
    return warnings


def has_word(text_encoder: TextEncoder, word: str, text: str) -> bool:
    """Return whether a text has a new word, and is not cut before it."""
    if word.casefold() not in text.casefold():
        return False
    return set(text_encoder.words.ids[word]) <= set(text_encoder.tokenize([text])[0].tolist())


def warn_of_untrained_words(text_encoder: nn.Module) -> list[str]:
    """Return a warning if new words are not trained, once it is chosen what is."""
    words = list_new_words(text_encoder)
    tower = getattr(text_encoder, "tower", None)
    embedding = None if tower is None else tower.token_embedding
    if not words or (isinstance(embedding, ExtendedEmbedding) and embedding.learned.requires_grad):
        return []
    return [
        f"the new words {', '.join(words)} are not trained, and stay what they begin as; text_encoder.trained=true and "
        "trained=null, or patterns that match text_encoder.tower.token_embedding.learned, train them"
    ]
