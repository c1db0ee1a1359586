"""Make a captioned folder of the Noto emoji: 64-pixel PNG files on white, with a `metadata.jsonl`.

    python scripts/prepare_noto.py data/noto

The pictures (Google's Noto Emoji, Apache-2.0) come in the npm package `emoji-datasource-google`, about 74 MB, which `npm`
fetches. About one picture in twenty is marked `"split": "held_out"`, by a hash of its code point.
"""

import argparse
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import TypedDict

from PIL import Image
from rich.console import Console
from rich.progress import track

PACKAGE = "emoji-datasource-google@16.0.0"
PICTURES = "package/img/google/64"
NAMES = "package/emoji.json"

NOTICE = """Pictures: Noto Emoji (https://github.com/googlefonts/noto-emoji), copyright Google LLC, put on white.
Licence: Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0); the flags of countries and regions are in the
public domain or otherwise exempt from copyright.
Names: emoji-datasource (https://github.com/iamcal/emoji-data), copyright 2013 Cal Henderson, MIT licence.
"""

WRONG_PICTURES = {"1F1E8-1F1F6"}  # for Sark the package holds the flag of Saudi Arabia

# By short name: where Unicode's name is not what people say, or not what is drawn ("black" and "white" often mean filled
# and outlined there).
SPOKEN = """
    relaxed: smiling face with blushing cheeks; rolling_on_the_floor_laughing: face rolling on the floor laughing;
    heart: red heart; boom: explosion; dizzy: shooting star with a trail; sweat_drops: splashing drops of sweat;
    dash: puff of wind; zzz: letters zzz; point_left: hand pointing left; point_right: hand pointing right;
    point_up_2: back of a hand pointing up; point_up: hand pointing up; point_down: hand pointing down; +1: thumbs up;
    -1: thumbs down; person_with_pouting_face: person pouting; no_good: person gesturing no;
    ok_woman: person gesturing ok; raising_hand: person raising hand; raised_hands: two raised hands; pray: folded hands;
    massage: person getting massage; haircut: person getting haircut; face_palm: person facepalming;
    shrug: person shrugging; bow: person bowing; man_with_turban: person wearing turban;
    person_in_tuxedo: person in tuxedo; breast-feeding: woman breast-feeding a baby; dancers: people with bunny ears;
    rowboat: person rowing boat; horse_racing: jockey on a horse; handball: person playing handball;
    water_polo: person playing water polo; juggling: person juggling; bath: person taking a bath;
    sleeping_accommodation: person in bed; couplekiss: couple kissing; sunny: sun with rays; star: yellow star;
    milky_way: the milky way; japan: map of japan; foggy: bridge in fog; statue_of_liberty: the statue of liberty;
    kaaba: the kaaba; tokyo_tower: the tokyo tower; bricks: brick wall; wedding: wedding chapel;
    earth_africa: earth globe showing europe and africa; earth_americas: earth globe showing the americas;
    earth_asia: earth globe showing asia and australia; building_construction: construction crane;
    rotating_light: red siren; wood: log of wood; camping: campsite; ladybug: ladybug; eggplant: eggplant;
    fried_egg: fried egg in a pan; house: house; boot: woman's boot;
    ramen: bowl of noodles; hocho: kitchen knife; bowling: bowling ball and pins; golf: flag in a golf hole;
    dart: dart in a target; gun: orange water pistol; performing_arts: pair of theater masks;
    flower_playing_cards: flower playing card; hearts: red heart suit; diamonds: red diamond suit; phone: red telephone;
    computer: laptop; moyai: stone head; scissors: pair of scissors; headphones: headphones;
    no_entry_sign: prohibition sign; atm: atm sign; om_symbol: om symbol; arrow_up: arrow pointing up;
    arrow_right: arrow pointing right; arrow_down: arrow pointing down; arrow_left: arrow pointing left;
    arrow_upper_right: arrow pointing up and right; arrow_lower_right: arrow pointing down and right;
    arrow_upper_left: arrow pointing up and left; arrow_lower_left: arrow pointing down and left;
    arrows_clockwise: pair of clockwise arrows; arrows_counterclockwise: pair of anticlockwise arrows; back: back arrow;
    end: end arrow; on: on arrow; soon: soon arrow; top: top arrow; twisted_rightwards_arrows: shuffle button;
    repeat: repeat button; repeat_one: repeat once button; arrow_forward: play button; fast_forward: fast forward button;
    arrow_backward: reverse button; rewind: fast reverse button; arrow_up_small: upwards button;
    arrow_double_up: fast upwards button; arrow_down_small: downwards button; arrow_double_down: fast downwards button;
    cinema: cinema symbol; wireless: wireless symbol; infinity: infinity symbol;
    currency_exchange: currency exchange symbol; vibration_mode: vibrating mobile phone;
    information_source: information symbol; yin_yang: yin yang symbol; question: red question mark;
    exclamation: red exclamation mark; grey_question: light gray question mark;
    grey_exclamation: light gray exclamation mark; recycle: recycling symbol; o: red circle outline; x: red cross mark;
    white_check_mark: white check mark on a green button; ballot_box_with_check: white check mark on a blue button;
    heavy_check_mark: dark check mark; negative_squared_cross_mark: white cross mark on a green button;
    eight_pointed_black_star: orange eight pointed star; eight_spoked_asterisk: green eight spoked asterisk;
    keycap_star: keycap of an asterisk; hash: keycap of a hash sign; koko: japanese button for here;
    sa: japanese button for service charge; u6708: japanese button for monthly amount;
    u6709: japanese button for not free of charge; u6307: japanese button for reserved;
    u5272: japanese button for discount; ideograph_advantage: round japanese button for bargain;
    u7121: japanese button for free of charge; u7981: japanese button for prohibited;
    accept: round japanese button for yes; u7533: japanese button for application;
    u5408: japanese button for passing grade; u7a7a: japanese button for vacancy;
    congratulations: round japanese button for congratulations; secret: round japanese button for secret;
    u55b6: japanese button for open for business; u6e80: japanese button for no vacancy;
    skin-tone-2: swatch of light skin; skin-tone-3: swatch of medium light skin; skin-tone-4: swatch of medium skin;
    skin-tone-5: swatch of medium dark skin; skin-tone-6: swatch of dark skin
"""
SPOKEN_NAMES = dict(entry.split(": ") for entry in " ".join(SPOKEN.split()).split("; "))

# In this order, on the name in lower case.
REWRITES = {
    r"\u2019": "'",
    r" & ": " and ",
    r" - ": " ",
    r" sar china$": "",
    r"\bgrey\b": "gray",
    r"^the flag of (united|isle|european|u\.s\.|.*(?:lands|territory|territories|republic|bahamas|philippines)$)": (
        r"the flag of the \1"
    ),
    r"^clock face (.+) oclock$": r"clock at \1 o'clock",
    r"^clock face (.+)-thirty$": r"clock at half past \1",
    r"^(\w+): bald$": r"bald \1",
    r"^(\w+): (.* hair|beard)$": r"\1 with \2",
    r"^keycap (\w+)$": r"keycap of the number \1",
    r"^(?:negative squared|circled) latin capital letter (\w)$": r"letter \1 button",
    r"^(?:negative )?squared (\w+).*$": r"\1 button",
    r"\b(hands?|moon) (?:sign|symbol)$": r"\1",
    r"\b((?:wo)?m[ae]n)s (?=\w)": r"\1's ",
    r"^heavy ": "",
}
SUFFIXES = {"transport-sign": "sign", "warning": "sign", "zodiac": "zodiac sign"}

# What ends a name's noun; the nouns that take no article: plurals, substances, names of persons and places.
LINKS = r" (?:of|with|without|in|on|at|over|and|for|behind|\w+ing)\b"
BARE = (
    r".*(?<!war)[^suio\W]s|people|men|women|claus|fuji|money|luggage|fire|fog|polish|bacon|bread|broccoli|butter|candy|curry|food"
    r"|garlic|ice|liquid|oden|popcorn|rice|spaghetti|sushi|tea"
)


def with_article(name: str) -> str:
    """A name with "a" or "an"; with nothing before plurals, substances, "two ..." and "the ..."."""
    noun = re.split(LINKS, name)[0].split()[-1]
    if re.fullmatch(BARE, noun) or name.startswith(("the ", "two ")):
        return name
    return f"{'an' if re.match('(?!uni|euro|one)[aeiou]|hour|x-|sos|ng ', name) else 'a'} {name}"


class Emoji(TypedDict):
    """What is used of an entry in the package's list."""

    name: str
    short_name: str
    unified: str
    image: str
    category: str
    subcategory: str
    sort_order: int
    has_img_google: bool


def caption(emoji: Emoji) -> str:
    """An emoji in plain words, "an emoji of a slice of pizza"."""
    name = SPOKEN_NAMES.get(emoji["short_name"])
    if name is None:
        name = emoji["name"] or re.sub("[_-]", " ", emoji["short_name"])
        name = re.sub("^(.+) Flag$", r"the flag of \1", name).lower()
        for pattern, replacement in REWRITES.items():
            name = re.sub(pattern, replacement, name)
        suffix = SUFFIXES.get(emoji["subcategory"], "")
        name = name if name.endswith(("sign", "symbol")) else f"{name} {suffix}".strip()
    group, colon, members = name.partition(": ")
    listed = ", ".join(with_article(part) for part in members.split(", ")) if colon else ""
    return f"an emoji of {with_article(group)}{colon}" + re.sub(r", ([^,]+)$", r" and \1", listed)


def is_held_out(emoji: Emoji) -> bool:
    """Whether a code point's hash falls in the twentieth that is kept out of training."""
    return int.from_bytes(hashlib.sha256(emoji["unified"].encode()).digest()[:8]) % 20 == 0


def fetch(folder: Path) -> Path:
    """The package's archive, fetched with npm into a folder. Raises `ValueError` where that fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError("npm is not installed; install Node.js, or fetch the package elsewhere and give it with --archive")
    with Console().status(f"fetching {PACKAGE} (about 74 MB)"):
        command = [npm, "pack", PACKAGE, "--pack-destination", str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tgz"))
    if result.returncode or not archives:
        reason = "\n".join(re.findall("^npm err.*", result.stderr, re.MULTILINE | re.IGNORECASE)[:4])
        raise ValueError(f"npm could not fetch {PACKAGE}; check the network, or give the package with --archive\n{reason}")
    return archives[0]


def read(archive: Path) -> list[tuple[Emoji, bytes]]:
    """The emoji to use with their picture files, in a keyboard's order. Nothing is unpacked to disk."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                if (folder == PICTURES or member.name == NAMES) and (content := tar.extractfile(member)):
                    files[name] = content.read()
        listed: list[Emoji] = sorted(json.loads(files["emoji.json"]), key=lambda emoji: emoji["sort_order"])
        usable = (emoji for emoji in listed if emoji["has_img_google"] and emoji["unified"] not in WRONG_PICTURES)
        return [(emoji, files[emoji["image"]]) for emoji in usable]
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"{archive} cannot be read as the archive of {PACKAGE} ({type(error).__name__})") from error


def on_white(file: bytes) -> Image.Image:
    """A picture file with its transparent parts made white."""
    picture = Image.open(io.BytesIO(file)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write (made if missing)")
    parser.add_argument("--count", type=int, default=None, help="only the first COUNT emoji (for a quick look)")
    parser.add_argument("--archive", type=Path, default=None, help="the package as a .tgz file, instead of fetching it")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            emoji = read(arguments.archive or fetch(Path(folder)))
    except ValueError as error:
        sys.exit(f"prepare_noto: {error}")

    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    splits: dict[bytes, str] = {}
    for one, file in track(emoji[: arguments.count], "writing pictures"):
        picture = on_white(file)
        # A few flags and families are drawn alike: they share a split, lest a held-out picture be trained on.
        split = splits.setdefault(picture.tobytes(), "held_out" if is_held_out(one) else "train")
        file_name = f"images/{one['image']}"
        picture.save(arguments.out / file_name)
        rows.append({"file_name": file_name, "text": caption(one), "split": split, "category": one["category"]})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (arguments.out / "metadata.jsonl").write_text(lines, encoding="utf-8")
    (arguments.out / "LICENSE.txt").write_text(NOTICE, encoding="utf-8")
    held_out = sum(row["split"] == "held_out" for row in rows)
    print(f"{len(rows)} pictures ({held_out} held out) in {arguments.out}")


if __name__ == "__main__":
    main()
