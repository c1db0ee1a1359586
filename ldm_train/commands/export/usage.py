"""How to use what was exported, as a model card says it."""

import json
from collections.abc import Sequence
from pathlib import Path

from ldm_train.assembly.parts import Parts
from ldm_train.commands.export.model_card import TASK, public
from ldm_train.settings.config_file import shortest_words
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings

TAGS = ("stable-diffusion", TASK, "ldm-train")
MENDED = (
    "Captions were mended by ftfy before training saw them, which transformers' tokenizer does not do to a prompt: write "
    "straight quotes for curly ones, plain letters for ligatures and full-width ones, and `&` for `&amp;`."
)


def code(*lines: str, language: str = "python") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def prompt_of(trained: TrainSettings) -> str:
    """One that the run drew, else one of no matter."""
    given = trained.pictures.prompts
    return str(given[0]) if given else "a red apple"


def drawing(trained: TrainSettings) -> str:
    """The call that draws as the run's own pictures were drawn, as far as a pipeline can."""
    settings = f"num_inference_steps={trained.pictures.steps}, guidance_scale={trained.guidance.get('scale', 1.0)}"
    return f"image = pipeline({json.dumps(prompt_of(trained), ensure_ascii=False)}, {settings}).images[0]"


def pipeline(out: str, trained: TrainSettings, parts: Parts) -> str:
    load = (
        "from diffusers import StableDiffusionPipeline",
        "",
        f'pipeline = StableDiffusionPipeline.from_pretrained("{own_name(out)}")',
        drawing(trained),
        'image.save("picture.png")',
    )
    return "\n\n".join(
        [
            f"`diffusers` and `transformers` are all that it takes; pictures are {parts.size} pixels wide by default.",
            code(*load),
            f"DDIM's steps are those of training's pictures where their number divides {int(parts.schedule.end)}. {MENDED}",
            "To measure it:",
            code(f"ldm-train evaluate pipeline={own_name(out)} real=PICTURES out=numbers.json", language="bash"),
            further(own_name(out), trained),
        ]
    )


def further(weights: str, trained: TrainSettings, *, scale: float | None = None) -> str:
    """How training goes on from what has left.

    Args:
        weights: the folder or file.
        scale: of the latents, where the weights do not tell it.
    """
    assert trained.text_encoder is not None
    if "weights" not in trained.text_encoder.arguments:
        return (
            "Its text encoder is one of ldm-train's own, which comes in again from the run alone: "
            "`network.weights=RUN` trains that further."
        )
    encode = [
        f"image_size={trained.image_size}",
        *("autoencoder=pretrained", f"autoencoder.weights={weights}"),
        *([] if scale is None else [f"autoencoder.scale={scale:.8g}"]),
        *words("text_encoder", trained.text_encoder, weights=weights),
    ]
    train = [
        *words("network", trained.network, weights=weights, averaged=True, add_input_channels=False),
        *(word for group in ("prediction", "schedule") for word in words(group, getattr(trained, group))),
    ]
    return "\n\n".join(
        [
            "To train it further on pictures of your own:",
            code(
                f"ldm-train encode source.path=PICTURES cache=CACHE {' '.join(encode)}",
                f"ldm-train train cache=CACHE run_dir=RUN {' '.join(train)}",
                language="bash",
            ),
        ]
    )


def words(group: str, part: Part, **changed: object) -> list[str]:
    """Return the words of a command line that choose a part, with some values changed."""
    return shortest_words(group, part.as_plain() | changed)


def parts(out: str, written: Sequence[str]) -> str:
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    transformers = {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
    lines = []
    for library, table in (("diffusers", classes), ("transformers", transformers)):
        if names := [name for name in written if name in table]:
            lines.append(f"from {library} import {', '.join(table[name] for name in names)}")
    both = classes | transformers
    lines += ["", *(f'{name} = {both[name]}.from_pretrained("{own_name(out)}", subfolder="{name}")' for name in written)]
    return code(*lines)


def single_file(out: str, name: str, trained: TrainSettings, *, scale: float | None) -> str:
    file = f"{own_name(out)}/{name}.safetensors"
    return "\n\n".join(
        [
            f"Put `{name}.safetensors` where your web UI has its checkpoints. {MENDED}",
            further(file, trained, scale=scale),
        ]
    )


def lora(out: str, file: str, base: str, trained: TrainSettings) -> str:
    load = (
        "from diffusers import StableDiffusionPipeline",
        "",
        f'pipeline = StableDiffusionPipeline.from_pretrained("{public(base)}")  # in diffusers\' layout',
        f'pipeline.load_lora_weights("{own_name(out)}", weight_name="{file}")',
        drawing(trained),
        'image.save("picture.png")',
    )
    words = f"ldm-train sample run_dir=RUN 'prompts=[…]' out=DIR 'adapters={{{own_name(out)}/{file}:0.8}}'"
    return "\n\n".join([code(*load), code(words, language="bash")])


def own_name(out: str) -> str:
    """Return the name of the exported folder: the same whether it was there before, and nothing of the machine."""
    return Path(out).resolve().name
