"""The words that `train_autoencoder` stands for when it goes on with trained weights instead of a new architecture."""

from collections.abc import Sequence

from ldm_train.settings.shipped import ConfigError, key_of

# A tenth of a new autoencoder's rate and a seventh of its steps: minutes, and what the weights know is kept.
FINE_TUNING = ("optimizer.lr=2.0e-4", "max_steps=1000")


def words_of_fine_tuning(verb: str, words: Sequence[str]) -> list[str]:
    """Return the words that go before those of a command line or file which names a trained autoencoder; else none.

    Raises:
        ConfigError: settings of an architecture are given too.
    """
    given = [word for word in words if key_of(word).partition(".")[0] == "autoencoder" and not deletes(word)]
    if verb != "train_autoencoder" or not given:
        return []
    refused = [word for word in words if key_of(word).partition(".")[0] == "architecture" and not deletes(word)]
    if refused:
        raise ConfigError(
            f"{key_of(refused[0])} is refused together with {key_of(given[0])}: trained weights have their own "
            "architecture; leave out one of the two"
        )
    chosen = ["autoencoder=pretrained"] if not any(key_of(word) == "autoencoder" for word in words) else []
    deleted = ["~architecture"] if not any(key_of(word) == "architecture" for word in words) else []
    return [*chosen, *deleted, *FINE_TUNING]


def deletes(word: str) -> bool:
    """Return whether a word chooses no option."""
    return word.startswith("~") or word.endswith("=null")
