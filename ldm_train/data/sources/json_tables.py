"""Tables of captions in one JSON value: COCO's annotations, kohya's `meta_cap.json`, and lists of rows."""

from collections.abc import Mapping, Sequence

from ldm_train.util.safe_json import Json


def list_json_rows(value: Json) -> Sequence[object]:
    """Return the rows of a table, each with `file_name` and the picture's caption.

    - `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`: COCO's, a row for each caption;
    - `{"a.png": "a caption"}` or `{"a.png": {"caption": …}}`: kohya's, a row for each name;
    - `[{"file_name", …}]`: rows as in JSON lines.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and isinstance(value.get("images"), list) and isinstance(value.get("annotations"), list):
        return _list_coco_rows(value["images"], value["annotations"])  # type: ignore[arg-type]
    if isinstance(value, dict) and value and all(isinstance(one, str | dict) for one in value.values()):
        return [{**(one if isinstance(one, dict) else {"caption": one}), "file_name": name} for name, one in value.items()]
    raise ValueError("accepted are COCO's annotations, an object of file names with captions, and a list of objects")


def _list_coco_rows(images: list[Json], annotations: list[Json]) -> list[Json]:
    names = {_key(image, "id"): image.get("file_name") for image in images if isinstance(image, dict)}
    rows: list[Json] = [
        {"file_name": names.get(_key(one, "image_id")), "caption": one["caption"]}
        for one in annotations
        if isinstance(one, dict) and "caption" in one
    ]
    if not rows:
        raise ValueError("these annotations of COCO's kind have no captions; COCO's are in captions_*.json")
    return rows


def _key(values: Mapping[str, Json], name: str) -> str:
    return str(values.get(name))
