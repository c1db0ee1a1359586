"""What a network was trained for: its prediction, noise schedule, autoencoder and text encoder, as a run's record holds it.

`run.json` and exported files hold it, and whoever takes a run's weights compares it with the run that takes them.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ldm_train.assembly.parts import Parts
from ldm_train.assembly.trained_part import is_partial
from ldm_train.data.cache.manifest import find_differences
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.run_dir.record import CONFIG, RECORD, read_record
from ldm_train.settings.composition import words
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.messages import Caution
from ldm_train.util.safe_json import Json
from ldm_train.weights.exported_files import read_export_record
from ldm_train.weights.tensor_files import read_metadata

TRAINED_FOR = "trained_for"  # the key in `run.json`, in files of weights and in `export.json`
WORDS = {"new_words", "new_vectors"}  # of a text encoder: may be added to weights that do not know them
PARTS = ("autoencoder", "text_encoder", "conditions", "network")
WITHOUT_OUTPUT = {"gradient_checkpointing", "dropout"}
SHORT = 12  # letters of a checksum in a message
TOLERANCE = 1e-4

Purpose = dict[str, Json]


def describe_purpose(config: TrainSettings, parts: Parts, *, with_trained_text: bool = False) -> Purpose:
    """Return what a run with this config and these parts trains its network for, in plain values.

    Args:
        with_trained_text: whether to describe a text encoder's weights also where they are trained and so travel with the
            network's, for a comparison with frozen ones.
    """
    text = parts.text_encoder.computation
    if parts.text_encoder.trained and not with_trained_text:
        text.pop("fingerprint", None)
    return {
        "prediction": prediction_name(parts),
        "schedule": {"set_by": schedule_words(config), **describe_schedule(parts.schedule)},
        "autoencoder": parts.autoencoder.identity | {"shift": parts.autoencoder.shift, "scale": parts.autoencoder.scale},
        "text_encoder": text,
        "conditions": {
            name: condition.identity for name, condition in zip(parts.conditions, parts.conditions.each, strict=True)
        },
        "network": describe_network(config),
    }


def describe_network(config: TrainSettings) -> Json:
    """Return a network's settings, without those that change none of its outputs."""
    kind = config.network.target.rpartition(".")[2]
    return {"kind": kind} | {name: value for name, value in config.network.arguments.items() if name not in WITHOUT_OUTPUT}


def schedule_words(config: TrainSettings) -> str:
    """Return the words of a command line that set the schedule."""
    try:
        return " ".join(words("schedule", config.schedule))
    except ValueError:  # a schedule that no option of the group makes
        return f"schedule={str(config.schedule.target).rpartition('.')[2]}"


def prediction_name(parts: Parts) -> str:
    return type(parts.prediction).__name__.lower()


def describe_schedule(schedule: NoiseSchedule) -> dict[str, Json]:
    """Return what a network sees of a schedule at ten points in time: (its time, the angle of the noise in radians)."""
    t = torch.tensor([schedule.t_at_share(share / 10) for share in range(1, 11)], dtype=torch.float64)
    pairs = torch.stack([schedule.network_time(t), schedule.ratio(t).atan()], 1)
    return {"points": [[round(value, 6) for value in pair] for pair in pairs.tolist()], "sigma_data": schedule.sigma_data}


def read_purpose(path: Path) -> Purpose | None:
    """Return what the network of a run directory, an exported file or an exported folder was trained for, if it is recorded.

    Raises:
        ValueError: a file that cannot be read.
    """
    found: object = None
    if path.is_dir() and (path / CONFIG).is_file():
        with suppress(ValueError):
            found = read_record(path).get(TRAINED_FOR)
    else:
        if path.suffix == ".safetensors" and path.is_file():
            found = read_metadata(path).get(TRAINED_FOR)
        for folder in (path, path.parent):  # a pipeline's own folder or a part of it, or around a single file
            if found is None:
                found = read_export_record(folder).get(TRAINED_FOR)
    if not isinstance(found, dict) or "prediction" not in found or not isinstance(found.get("schedule"), dict):
        return None
    return found


def warn_of_other_purpose(path: Path, config: TrainSettings, parts: Parts) -> list[str]:
    """Return a warning for each thing that the weights at `path` were trained for and this run is not, with both values."""
    then = read_purpose(path)
    if then is None:
        return [f"nothing records what {path} was trained for; its prediction and schedule are taken to be this run's"]
    now = describe_purpose(config, parts, with_trained_text=True)
    return [Caution(line) for line in compare_purposes(then, now, path, effect=", so the loss starts high")]


def compare_purposes(then: Purpose, now: Purpose, path: Path, *, effect: str = "") -> Iterator[str]:
    """Yield each difference between what the weights at `path` and this run are trained for, and how to match them."""
    then, now = without_control(then), without_control(now)
    if then["prediction"] != now["prediction"]:
        yield (
            f"{path} was trained with prediction={then['prediction']}, and prediction={now['prediction']} is set{effect}; "
            f"set prediction={then['prediction']}, unless it shall learn the other"
        )
    if not is_same_schedule(then["schedule"], now["schedule"]):
        before, after = (purpose["schedule"].get("set_by") for purpose in (then, now))  # type: ignore[union-attr]
        yield f"{path} was trained with {before}, and {after} is set{effect}; set {before}, unless it shall learn the other"
    for part in ("autoencoder", "text_encoder", "conditions", *(["network"] if is_same_kind(then, now) else [])):
        if differences := compare_part(then.get(part), now[part], part):
            other = "other" if part == "conditions" else "another"
            yield (
                f"{path} was trained with {other} {part}{effect}: {'; '.join(differences)}. Set {part}=… as it was "
                "then, unless it shall learn the other"
            )


def without_control(purpose: Purpose) -> Purpose:
    """Return what the network itself is trained for, without the map that a ControlNet next to it follows."""
    conditions = purpose.get("conditions")
    if not isinstance(conditions, dict):
        return purpose
    kept = {name: one for name, one in conditions.items() if not (isinstance(one, dict) and one.get("control"))}
    return purpose | {"conditions": kept}


def is_same_kind(then: Purpose, now: Purpose) -> bool:
    """Return whether two networks are of one class, so that their settings can be compared."""
    first, second = then.get("network"), now.get("network")
    return isinstance(first, dict) and isinstance(second, dict) and first.get("kind") == second.get("kind")


def refuse_other_purpose(run_dir: Path, config: TrainSettings, parts: Parts, *, weights: str = "") -> None:
    """Raise if a run's config, or the encoders that it names, are no longer those that the run was trained with.

    Args:
        parts: as the config makes them, before they are given the run's weights.
        weights: a file that is used instead of the run's own checkpoint, if it ends in .safetensors.

    Raises:
        ValueError: listing what differs from its record, or from what the file was trained for.
    """
    if differences := list(_changes(read_purpose(run_dir), config, parts)):
        raise ValueError(
            f"{run_dir / CONFIG}, or what it names, changed since the run was trained, as {RECORD} there says:\n  "
            + "\n  ".join(differences)
            + f"\nrestore {run_dir / CONFIG}, or the files that it names"
        )
    file = Path(weights)
    if file.suffix == ".safetensors" and (differences := list(_changes(read_purpose(file), config, parts))):
        raise ValueError(
            f"weights={file} was trained for something else than run_dir={run_dir} (then in the file, now in the run):\n  "
            + "\n  ".join(differences)
            + "\nuse it with the run that it was exported from, or another file"
        )


def _changes(then: Purpose | None, config: TrainSettings, parts: Parts) -> Iterator[str]:
    if then is None:
        return
    now = describe_purpose(config, parts)
    text = now["text_encoder"]
    if isinstance(text, dict) and (
        is_partial(config) or (config.text_encoder is not None and config.text_encoder.get("weights") is None)
    ):
        text.pop("fingerprint", None)  # its weights are the run's, or those that it stands on
        before = then.get("text_encoder")
        if isinstance(before, dict):
            then = then | {"text_encoder": {name: one for name, one in before.items() if name != "fingerprint"}}
    if then["prediction"] != now["prediction"]:
        yield f"prediction: then {then['prediction']}, now {now['prediction']}"
    if not is_same_schedule(then["schedule"], now["schedule"]):
        before, after = (one.get("set_by") if isinstance(one, dict) else one for one in (then["schedule"], now["schedule"]))
        yield f"schedule: then {before}, now {after}"
    for part in PARTS:
        yield from compare_part(then.get(part), now[part], part)


def is_same_schedule(one: Json, other: Json) -> bool:
    """Return whether two schedules give a network the same times for the same noise."""
    if not isinstance(one, dict) or not isinstance(other, dict) or one.get("sigma_data") != other.get("sigma_data"):
        return False
    try:
        first, second = (torch.tensor(schedule.get("points"), dtype=torch.float64) for schedule in (one, other))
    except (TypeError, ValueError, RuntimeError):  # a file's that holds anything
        return False
    return first.shape == second.shape and torch.allclose(first, second, rtol=TOLERANCE, atol=TOLERANCE)


def compare_part(then: Json, now: Json, part: str) -> list[str]:
    """Return the settings in which an encoder of then differs from one of now, with both values."""
    if not isinstance(then, dict) or not isinstance(now, dict):
        return []
    # Trained along with the network, its weights come with the network's.
    free = WORDS if "fingerprint" in then else WORDS | {"fingerprint"}
    now = {name: value for name, value in now.items() if name not in free}
    then = {name: shorten_checksum(name, value) for name, value in then.items() if name not in free}
    now = {name: shorten_checksum(name, value) for name, value in now.items()}
    return [f"{name}: then {before}, now {after}" for name, before, after in find_differences(then, now, f"{part}.")]


def shorten_checksum(name: str, value: Json) -> Json:
    return value[:SHORT] if name == "fingerprint" and isinstance(value, str) else value


def require_same_prediction(path: Path, config: TrainSettings, parts: Parts) -> list[str]:
    """Return warnings of what else an adapter was trained for than this run.

    Raises:
        ValueError: another prediction, which no factor of the adapter could make up for.
    """
    then, now = read_purpose(path), describe_purpose(config, parts, with_trained_text=True)
    if then is None:
        return []
    if then["prediction"] != now["prediction"]:
        raise ValueError(
            f"adapters: {path} was trained for prediction={then['prediction']}, and this run's network has "
            f"prediction={now['prediction']}; use it with a run that has prediction={then['prediction']}"
        )
    return [Caution(line) for line in compare_purposes(then, now, path)]
