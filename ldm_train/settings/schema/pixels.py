"""The settings of pictures that are not 8-bit RGB, and of the pictures while an autoencoder trains."""

from typing import Annotated

from ldm_train.settings.schema.kinds import Choice, Count, Finite, Length, Range, Section, Words, setting

MOST_PIXELS = 178_956_970
MOST_CHANNELS = 256


class PixelSettings(Section):
    """Pictures that are not 8-bit RGB: grey, 16 bits, several channels, and arrays (.npy)."""

    channels: Annotated[int, Range(1, MOST_CHANNELS)] | None = setting(
        None, "of every picture, whose values are read as they are stored; null: all are converted to sRGB with 8 bits"
    )
    bits: Annotated[int, Choice(("8", "16", "32"))] = setting(
        8, "of a value, at most, and of drawn pictures: 8 and 16 are whole numbers, 32 floats"
    )
    range: Annotated[list[Finite], Length(2), Words("[LOW,HIGH]")] | None = setting(
        None, "the values that become -1 and 1; null: 0 and the largest of a file's type, and -1 and 1 for floats"
    )


class ReconstructionSettings(Section):
    """When an autoencoder's reconstructions of some held-out pictures are drawn."""

    every: Count = setting(500, "optimizer steps between pictures", free=True)
