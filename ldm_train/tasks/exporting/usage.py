"""How to use what was exported, as a model card says it."""

import json
from collections.abc import Sequence

from omegaconf import DictConfig

from ldm_train.tasks.exporting.card import public
from ldm_train.tasks.parts.assemble import Parts

TAGS = ("stable-diffusion", "text-to-image", "ldm-train")


def code(*lines: str, language: str = "python") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def prompt_of(trained: DictConfig) -> str:
    """One that the run drew, else one of no matter."""
    given = trained.pictures.get("prompts") if "pictures" in trained else None
    return str(given[0]) if given else "a red apple"


def drawing(trained: DictConfig) -> str:
    """The call that draws as the run's own pictures were drawn, as far as a pipeline can."""
    settings = f"num_inference_steps={trained.pictures.steps}, guidance_scale={trained.guidance.get('scale', 1.0)}"
    return f"image = pipeline({json.dumps(prompt_of(trained), ensure_ascii=False)}, {settings}).images[0]"


def pipeline(out: str, trained: DictConfig, parts: Parts) -> str:
    load = (
        "from diffusers import StableDiffusionPipeline",
        "",
        f'pipeline = StableDiffusionPipeline.from_pretrained("{public(out)}")',
        drawing(trained),
        'image.save("picture.png")',
    )
    return "\n\n".join(
        [
            f"`diffusers` and `transformers` are all that it takes; pictures are {parts.size} pixels wide by default.",
            code(*load),
            f"DDIM's steps are those of training's pictures where their number divides {int(parts.schedule.end)}.",
            code(
                f"ldm-train evaluate pipeline={public(out)} real=FOLDER out=numbers.json   # measure it",
                f"ldm-train train network.weights={public(out)} …   # train it further",
                language="bash",
            ),
        ]
    )


def parts(out: str, written: Sequence[str]) -> str:
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    transformers = {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
    lines = []
    for library, table in (("diffusers", classes), ("transformers", transformers)):
        if names := [name for name in written if name in table]:
            lines.append(f"from {library} import {', '.join(table[name] for name in names)}")
    both = classes | transformers
    lines += ["", *(f'{name} = {both[name]}.from_pretrained("{public(out)}", subfolder="{name}")' for name in written)]
    return code(*lines)


def single_file(out: str, name: str) -> str:
    file = f"{public(out)}/{name}.safetensors"
    return "\n\n".join(
        [
            f"Put `{name}.safetensors` where your web UI has its checkpoints. Here it goes on:",
            code(
                f"ldm-train train network.weights={file} autoencoder=pretrained autoencoder.weights={file} …",
                language="bash",
            ),
        ]
    )


def lora(out: str, file: str, base: str, trained: DictConfig) -> str:
    load = (
        "from diffusers import StableDiffusionPipeline",
        "",
        f'pipeline = StableDiffusionPipeline.from_pretrained("{public(base)}")  # in diffusers\' layout',
        f'pipeline.load_lora_weights("{public(out)}", weight_name="{file}")',
        drawing(trained),
    )
    words = f"ldm-train sample run_dir=RUN 'prompts=[…]' out=DIR 'adapters={{{public(out)}/{file}:0.8}}'"
    return "\n\n".join([code(*load), code(words, language="bash")])
