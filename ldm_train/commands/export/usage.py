"""Write the usage section of a model card: code and commands for each layout."""

import json
from collections.abc import Sequence
from pathlib import Path

from ldm_train.assembly.enlarging import find_low_resolution
from ldm_train.assembly.parts import Parts
from ldm_train.assembly.pipeline_layouts import DEPTH, INPAINT, PLAIN, UPSCALE, PipelineLayout, find_layout
from ldm_train.assembly.prompts import looks_like_a_file, parse_prompts
from ldm_train.commands.export.model_card import PICTURE_TASK, TASK, hide_local_path
from ldm_train.settings.config_file import shortest_words
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.text import as_word

TAGS = ("stable-diffusion", TASK, "ldm-train")
CONTROL = "StableDiffusionControlNetPipeline"
READ_PICTURE = 'Image.open("{file}").convert("{mode}").resize(({size}, {size}))'
EXAMPLE = "a red apple"
CLEANED = (
    "In training, captions were cleaned with ftfy, which transformers' tokenizer does not do with a prompt: write straight "
    "quotes for curly ones, plain letters for ligatures and full-width letters, and `&` for `&amp;`."
)


def list_tags(pipeline: str) -> tuple[str, ...]:
    """Return the tags of a pipeline for catalogues."""
    return TAGS if pipeline == PLAIN else tuple(PICTURE_TASK if tag == TASK else tag for tag in TAGS)


def format_code(*lines: str, language: str = "python") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def choose_prompt(trained: TrainSettings) -> str:
    """Return the first prompt of the run's pictures, or an example: a file of prompts that a run names is not opened."""
    given = trained.pictures.prompts
    if not isinstance(given, list) and looks_like_a_file(str(given)):
        return EXAMPLE
    try:
        return parse_prompts(given if isinstance(given, list) else [given])[0].text
    except ValueError:
        return EXAMPLE


def format_drawing_call(trained: TrainSettings, given: str = "") -> str:
    """Return a line of code that draws with the settings of the run's pictures, as far as a pipeline supports them.

    Args:
        given: further arguments of the call.
    """
    settings = f"num_inference_steps={trained.pictures.steps}, guidance_scale={trained.guidance.get('scale', 1.0)}"
    return f"image = pipeline({json.dumps(choose_prompt(trained), ensure_ascii=False)}, {given}{settings}).images[0]"


def describe_pipeline_use(out: str, trained: TrainSettings, parts: Parts) -> str:
    evaluation = f"ldm-train evaluate {as_word('pipeline', get_folder_name(out))} real=PICTURES out=numbers.json"
    measured = [] if len(parts.conditions) else ["To evaluate it:", format_code(evaluation, language="bash")]
    return "\n\n".join(
        [
            f"Install `diffusers` and `transformers`; pictures are {parts.size} pixels wide by default.",
            format_code(*list_loading_lines(get_folder_name(out), trained, parts)),
            f"DDIM uses the same steps as the run's pictures if their number divides {int(parts.schedule.end)}. {CLEANED}",
            *measured,
            describe_further_training(get_folder_name(out), trained, layout=find_layout(parts.conditions)),
        ]
    )


def list_loading_lines(folder: str, trained: TrainSettings, parts: Parts) -> list[str]:
    """Return the code that loads a pipeline and draws with it, from pictures of PICTURE.png, MASK.png and DEPTH.png."""
    layout = find_layout(parts.conditions)
    pipeline = PLAIN if layout is None else layout.pipeline
    imports, opened, given, without = [f"from diffusers import {pipeline}"], list[str](), "", ""
    if layout is not None:
        imports += ["from PIL import Image"]
        size = parts.size // parts.conditions.unit if layout is UPSCALE else parts.size
        opened += ["picture = " + READ_PICTURE.format(file="picture.png", mode="RGB", size=size)]
        given = "image=picture, "
    condition = find_low_resolution(parts.conditions)
    if layout is UPSCALE and condition is not None:
        given += f"noise_level={condition.noise_level}, "
    if layout is INPAINT:
        opened += ["mask = " + READ_PICTURE.format(file="mask.png", mode="L", size=parts.size) + "  # white where to draw"]
        given += "mask_image=mask, "
    if layout is DEPTH:
        imports = ["import numpy", "import torch", *imports]
        depth = READ_PICTURE.format(file="depth.png", mode="F", size=parts.size)
        opened += [f"depth = torch.from_numpy(numpy.array({depth}))[None]  # lighter where nearer"]
        given += "depth_map=depth, strength=1.0, "
        without = ", depth_estimator=None, feature_extractor=None"
    return [
        *imports,
        "",
        f'pipeline = {pipeline}.from_pretrained("{folder}"{without})',
        *opened,
        format_drawing_call(trained, given),
        f'image.save("{"picture" if layout is None else "drawn"}.png")',
    ]


def describe_further_training(
    weights: str, trained: TrainSettings, *, scale: float | None = None, layout: PipelineLayout | None = None
) -> str:
    """Return the commands that train the exported weights further.

    Args:
        weights: the folder or file.
        scale: the latents' scale if the weights do not state it.
        layout: what the network is conditioned on besides prompts.
    """
    assert trained.text_encoder is not None
    if "weights" not in trained.text_encoder.arguments:
        return (
            "Its text encoder was trained with ldm-train and cannot be loaded from this export; train the run further with "
            "`network.weights=RUN`."
        )
    conditions = [] if layout is None else [as_word("conditions", f"[{write_option(trained, layout)}]")]
    has_maps = layout not in (None, INPAINT, UPSCALE)
    maps = [as_word("source.maps", f"{{{layout.option}:{layout.option}/{{name}}}}")] if layout and has_maps else []
    encode = [
        *conditions,
        *maps,
        f"image_size={trained.image_size}",
        *("autoencoder=pretrained", as_word("autoencoder.weights", weights)),
        *([] if scale is None else [f"autoencoder.scale={scale:.8g}"]),
        *list_part_words("text_encoder", trained.text_encoder, weights=weights),
    ]
    train = [
        *conditions,
        *list_part_words("network", trained.network, weights=weights, averaged=True, add_input_channels=False),
        *(word for group in ("prediction", "schedule") for word in list_part_words(group, getattr(trained, group))),
    ]
    return "\n\n".join(
        [
            "To train it further on your own pictures:",
            format_code(
                f"ldm-train encode source.path=PICTURES cache=CACHE {' '.join(encode)}",
                f"ldm-train train cache=CACHE run_dir=RUN {' '.join(train)}",
                language="bash",
            ),
        ]
    )


def write_option(trained: TrainSettings, layout: PipelineLayout) -> str:
    """Return the condition of exported weights, as a list of conditions has it."""
    if layout is not UPSCALE:
        return layout.option
    given = trained.conditions[0]
    kept = [f"{name}:{given.get(name)}" for name in ("factor", "max_noise_level") if name in given.arguments]
    return f"{{{layout.option}:{{{','.join([*kept, 'width:null'])}}}}}"


def list_part_words(group: str, part: Part, **changed: object) -> list[str]:
    """Return the command-line words that choose a part, with some values changed."""
    return shortest_words(group, part.as_plain() | changed)


def describe_parts_use(out: str, written: Sequence[str]) -> str:
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    transformers = {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
    lines = []
    for library, table in (("diffusers", classes), ("transformers", transformers)):
        if names := [name for name in written if name in table]:
            lines.append(f"from {library} import {', '.join(table[name] for name in names)}")
    both = classes | transformers
    lines += [
        "",
        *(f'{name} = {both[name]}.from_pretrained("{get_folder_name(out)}", subfolder="{name}")' for name in written),
    ]
    return format_code(*lines)


def describe_single_file_use(
    out: str, name: str, trained: TrainSettings, *, scale: float | None, layout: PipelineLayout | None
) -> str:
    file = f"{get_folder_name(out)}/{name}.safetensors"
    return "\n\n".join(
        [
            f"Put `{name}.safetensors` where your web UI looks for checkpoints. {CLEANED}",
            describe_further_training(file, trained, scale=scale, layout=layout),
        ]
    )


def describe_lora_use(out: str, file: str, base: str, trained: TrainSettings) -> str:
    pipeline = PLAIN if not trained.conditions else "DiffusionPipeline"
    load = (
        f"from diffusers import {pipeline}",
        "",
        f'pipeline = {pipeline}.from_pretrained("{hide_local_path(base)}")  # in diffusers\' layout',
        f'pipeline.load_lora_weights("{get_folder_name(out)}", weight_name="{file}")',
        *([] if trained.conditions else [format_drawing_call(trained), 'image.save("picture.png")']),
    )
    adapters = as_word("adapters", f"{{{get_folder_name(out)}/{file}:0.8}}")
    words = f"ldm-train sample run_dir=RUN 'prompts=[…]' out=DIR {adapters}"
    return "\n\n".join([format_code(*load), format_code(words, language="bash")])


def describe_control_use(out: str, base: str, trained: TrainSettings) -> str:
    opened = READ_PICTURE.format(file="map.png", mode="RGB", size=trained.image_size)
    load = (
        f"from diffusers import ControlNetModel, {CONTROL}",
        "from PIL import Image",
        "",
        f'control = ControlNetModel.from_pretrained("{get_folder_name(out)}")',
        f'pipeline = {CONTROL}.from_pretrained("{hide_local_path(base)}", controlnet=control)',
        f"given = {opened}",
        format_drawing_call(trained, "image=given, "),
        'image.save("picture.png")',
    )
    base_use = (
        "The network that it was trained on must be in diffusers' layout too; if that is a run, "
        "`ldm-train export run_dir=BASE layout=diffusers out=…` writes it."
    )
    words = "ldm-train train cache=CACHE run_dir=RUN network.weights=BASE adapter=controlnet "
    words += as_word("adapter.weights", get_folder_name(out)) + " " + as_word("conditions", "[{control:{name:NAME}}]")
    return "\n\n".join([format_code(*load), base_use, "To train it further:", format_code(words, language="bash")])


def get_folder_name(out: str) -> str:
    """Return the name of the exported folder, without its path, so that a card reveals nothing about the machine."""
    return Path(out).resolve().name
