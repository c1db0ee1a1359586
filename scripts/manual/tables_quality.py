"""Tables of what models learn: the quick start, fine-tuning, and whether metrics rank models."""

import unicodedata

from manual.measured import look_up, make_table, number, read_result

QUICKSTART = {
    "retrieval_at_1": (3, "share of pictures for which the nearest of all 100 drawings is the one in the caption"),
    "background_accuracy": (3, "share of pictures with corners in the colour of the caption"),
    "drawing_psnr": (1, "PSNR to the true drawing, dB"),
    "autoencoder_psnr": (1, "PSNR that the autoencoder alone reaches, dB: the upper limit"),
}


def quickstart() -> str:
    """The quick start's model on held-out pictures.

    80 (drawing, background) pairs that no stage of the training saw, three pictures each, 20 DDIM steps.
    """
    rows = [
        [f"`{key}`", meaning, *(f"{number(name, key):.{digits}f}" for name in ("quickstart", "quickstart_noise"))]
        for key, (digits, meaning) in QUICKSTART.items()
    ]
    return make_table(["metric", "meaning", "velocity prediction", "noise prediction"], rows)


def finetune() -> str:
    """Fine-tuning the quick start's model on a new drawing.

    How often a picture is nearest to the drawing of its caption, among 101 drawings (by chance 0.01), before and after 200
    steps: for the new drawing, for the new drawing on backgrounds that were not trained on, and for the hundred drawings
    that the model knew, for which it was 1.000 before. Measured by `python scripts/finetune_learning.py`.
    """
    glyphs = look_up("finetune", "glyphs")
    assert isinstance(glyphs, dict)
    ways, parts = ("lora", "full"), ("glyph", "new", "others")
    rows = []
    for glyph in glyphs:
        cells = [unicodedata.name(chr(int(glyph, 16))).lower(), rate(glyph, "base", "glyph")]
        for way in ways:
            cells += [
                *(rate(glyph, way, part) for part in parts),
                f"{number('finetune', 'glyphs', glyph, way, 'seconds'):.0f} s",
            ]
        rows.append(cells)
    names = ["new drawing", "on new backgrounds", "the hundred", "time"]
    header = ["drawing", "before", *(f"{way}: {name}" for way in ("LoRA", "all weights") for name in names)]
    return make_table(header, rows)


def rate(glyph: str, way: str, part: str) -> str:
    """Return how often a picture was nearest to the drawing of its caption."""
    return f"{number('finetune', 'glyphs', glyph, way, part, 'retrieval_at_1'):.3f}"


AUTOENCODERS = {"pictures": ".0f", "general": ".1f", "openmoji": ".1f"}
SETS = {
    "lomiri-wallpapers-16.04": "crops of photographs for desktops",
    "lomiri-wallpapers-20.04": "crops of more of these",
    "python3-skimage": "crops of scikit-image's photographs",
    "naev-data": "a space game's goods, weapons and planets",
    "pysiogame": "a children's game's cartoons",
    "openmoji": "the quick start's scenes, whose emoji both have seen",
}


def autoencoders() -> str:
    """How well the shipped autoencoders give pictures back.

    Mean PSNR of pictures of 64x64 pixels, dB. No autoencoder was trained on any of these sets but the last. Measured by
    `python scripts/measure_autoencoders.py`.
    """
    rows = [
        [meaning, *(f"{number('autoencoders', 'sets', name, key):{how}}" for key, how in AUTOENCODERS.items())]
        for name, meaning in SETS.items()
    ]
    return make_table(["set", "pictures", *(f"`{name}`" for name in list(AUTOENCODERS)[1:])], rows)


def spaces() -> str:
    """The same network on pixels and on latents, trained for the same minutes.

    On the quick start's scenes of 64x64 pixels, one thread, with autoencoders of four channels. Factor 1 are pixels. The
    kernel distance is the one to the true pictures as the autoencoder gives them back. Measured by
    `python scripts/compare_spaces.py`.
    """
    factors = look_up("spaces", "factors")
    assert isinstance(factors, dict)
    formats = {
        "numbers_per_picture": ",.0f",
        "examples_per_second": ".0f",
        "memory_gib": ".1f",
        "retrieval_at_1": ".3f",
        "drawing_psnr": ".1f",
        "autoencoder_psnr": ".1f",
        "kid_efficientnet_lite0": ".3f",
    }
    rows = []
    for factor in factors:
        known = {
            key: number("spaces", "factors", factor, key)
            for key in formats
            if look_up("spaces", "factors", factor, key) is not None
        }
        rows.append([factor, *(format(known[key], how) if key in known else "exact" for key, how in formats.items())])
    header = ["factor", "numbers of a picture", "examples/s", "memory, GiB", "drawn right"]
    return make_table([*header, "PSNR of drawn pictures, dB", "of reconstructions, dB", "kernel distance"], rows)


def ranking() -> str:
    """Whether the metrics rank a model that was made worse on purpose.

    Noise was added to the weights of the quick start's model, in these shares of each tensor's deviation. 0 is the model as
    it is. Measured by `python scripts/rank_noised.py outputs/quickstart`.
    """
    grades, measures = look_up("ranking", "grades"), look_up("ranking", "measures")
    assert isinstance(grades, list)
    assert isinstance(measures, dict)
    rows = [
        [
            f"`{name}`",
            *(f"{number('ranking', 'measures', name, 'values', place):.3f}" for place in range(len(grades))),
            "yes" if look_up("ranking", "measures", name, "ranked") else "no",
        ]
        for name in measures
    ]
    return make_table(["metric", *map(str, grades), "in the right order"], rows)


def expectations() -> str:
    """How many examples a network needs until it draws what it was taught.

    Subjects are the different words of the captions, but no more than there are pictures. "Recognised": nine of ten trained
    captions by the pictures drawn of them. "Clear": the loss of trained examples has fallen by 95 % of what it fell in all,
    of a run that ended. `first` are 150 cartoons, `fit-renders` and `fit-mixed` the folders of 300 and 1,000 of the page
    "From a folder to pictures".
    Measured by `python scripts/measure_expectations.py`, with `experiment=own_64`, and on the run of the quick start.
    """
    rows = []
    for name, run in read_result("expectations").items():
        if not isinstance(run, dict):
            continue
        pictures, words = (number("expectations", name, key) for key in ("pictures", "words"))
        curve = run["taught_retrieval_at_1"]
        assert isinstance(curve, dict)
        examples, reached = [*curve.items()][-1]
        cells = [f"not within {int(examples):,} (then {reached:.2f})", ""]
        for place, key in enumerate(("examples_until_recognised", "examples_until_the_loss_fell")):
            if run["examples_until_recognised"] is not None and run[key] is not None:
                count = number("expectations", name, key)
                cells[place] = f"{count:,.0f}, {count / min(words, pictures):,.0f} a subject"
        rows.append([name, f"{pictures:,.0f}", f"{min(words, pictures):,.0f}", *cells])
    return make_table(["set", "pictures", "subjects", "examples until recognised", "examples until clear"], rows)
