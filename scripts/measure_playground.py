"""Measure the playground: clients that draw at the same time, and its memory over many pictures.

python scripts/measure_playground.py RUN_DIR OUT.json --clients 20 --pictures 1000
"""

import argparse
import json
import socket
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil
import uvicorn

from ldm_train.commands.playground.listening import Address
from ldm_train.commands.playground.playground import Playground
from ldm_train.commands.playground.web_app import build_app
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import PlaygroundSettings

WAIT = 3600.0  # seconds for one answer at most


def connect(address: str) -> httpx.Client:
    """Return a client, which takes tens of milliseconds to make, so it is no part of what is measured."""
    return httpx.Client(base_url=address, timeout=WAIT, trust_env=False)


def draw(client: httpx.Client, **settings: int) -> float:
    """Draw one picture through the page's API, and return the seconds until its PNG file was there."""
    begin = time.perf_counter()
    started = client.post("/gradio_api/call/draw", json={"data": ["a red apple", settings, ""]}).json()
    answer = client.get(f"/gradio_api/call/draw/{started['event_id']}").text
    data = answer.strip().split("\n\n")[-1].partition("data: ")[2]
    client.get(json.loads(data)[0]["picture"]).raise_for_status()
    return time.perf_counter() - begin


def draw_together(address: str, clients: int) -> list[float]:
    """Return the seconds of clients that begin at the same time, one after the other as they were answered."""
    found: list[float] = []

    def draw_one(client: httpx.Client, seed: int) -> None:
        found.append(draw(client, seed=seed))

    threads = [threading.Thread(target=draw_one, args=(connect(address), seed)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main() -> None:
    """Serve a run in this process, draw, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("out", type=Path)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--steps", type=int, help="of the many pictures of which the memory is measured")
    given = parser.parse_args()
    steps = {} if given.steps is None else {"steps": given.steps}
    settings = compose_as(PlaygroundSettings, [f"run_dir={given.run_dir}"])
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        page = Address("127.0.0.1", listener.getsockname()[1], None)
        app = build_app(Playground(settings, Path(folder)), page)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
        client = connect(page.url)
        seconds = [draw(client, seed=0) for _ in range(5)]
        together = draw_together(page.url, given.clients)
        memory = []
        for number in range(given.pictures):
            draw(client, seed=number, **steps)
            if number % max(1, given.pictures // 20) == 0:
                memory.append(round(process.memory_info().rss / 2**20, 1))
        server.should_exit = True
    figures = {
        "run": given.run_dir,
        "seconds_of_one_client": [round(one, 3) for one in seconds],
        "clients": given.clients,
        "answered": len(together),
        "seconds_of_clients": [round(one, 3) for one in sorted(together)],
        "pictures": given.pictures,
        "steps": given.steps,
        "memory_mib": memory,
    }
    given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
