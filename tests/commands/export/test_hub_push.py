"""`export … push=USER/NAME` against a server on this machine that answers as the hub does."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from ldm_train.commands.export.hub_push import push_folder
from ldm_train.commands.export.usage import choose_prompt
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings

TOKEN = "hf_test"


class FakeHub(ThreadingHTTPServer):
    """Keeps what is committed, for one token; `fails` is a part of the path that gets an error of the server."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.fails: str | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        name = self.path.partition("/api/models/")[2].partition("?")[0]
        if self.refuse(b""):
            return
        if self.path.startswith("/api/whoami"):
            self.answer(200, {"name": "me", "type": "user", "auth": {"accessToken": {"role": "write"}}})
        elif name in self.server.private:
            self.answer(200, {"id": name, "private": self.server.private[name], "tags": [], "siblings": []})
        else:
            self.answer(404, {"error": f"no such page: {self.path}"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.refuse(body):
            return
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            known = name in self.server.private
            self.server.private.setdefault(name, asked.get("private") or asked.get("visibility") == "private")
            self.answer(409 if known else 200, {"url": f"{self.server.address}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                200, {"commitUrl": f"{self.server.address}/me/model/commit/1", "commitOid": "1" * 40, "success": True}
            )
        else:
            self.answer(404, {"error": f"no such page: {self.path}"})

    def refuse(self, body: bytes) -> bool:
        self.server.asked.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid credentials"})
        elif self.server.fails is not None and self.server.fails in self.path:
            self.answer(500, {"error": "out of order"})
        else:
            return False
        return True


@pytest.fixture
def fake_hub() -> Iterator[FakeHub]:
    server = FakeHub()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def online(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """This process with a token for that server."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", fake_hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return fake_hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an export might have written."""
    (tmp_path / "out/unet").mkdir(parents=True)
    (tmp_path / "out/README.md").write_text("---\nlicense: mit\n---\nA card\n")
    (tmp_path / "out/unet/weights.safetensors").write_bytes(bytes(100))
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_an_export_is_uploaded_with_its_card(trained: Path, fake_hub: FakeHub, tmp_path: Path) -> None:
    words = ["export", f"run_dir={trained}", f"out={tmp_path}/out", "layout=diffusers", "push=me/model"]
    environment = os.environ | {"HF_ENDPOINT": fake_hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "ldm_train", *words]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert f"{fake_hub.address}/me/model" in ended.stdout
    assert fake_hub.private == {"me/model": True}
    assert fake_hub.files == contents(tmp_path / "out")
    assert "README.md" in fake_hub.files
    assert not any(str(tmp_path).encode() in content for content in fake_hub.files.values()), "no local path"


def test_a_folder_is_uploaded_into_a_repository_that_is_there(online: FakeHub, folder: Path) -> None:
    online.private["me/model"] = False
    assert push_folder(folder, "me/model", private=False) == f"{online.address}/me/model"
    assert online.files == contents(folder)


def test_nothing_private_goes_into_a_public_repository(online: FakeHub, folder: Path) -> None:
    online.private["me/model"] = False
    with pytest.raises(ValueError, match="push_private=false") as raised:
        push_folder(folder, "me/model", private=True)
    assert online.files == {}
    assert str(folder) in str(raised.value)
    assert "hf upload" not in str(raised.value)


@pytest.mark.parametrize(
    ("prompts", "shown"),
    [("secret.txt", "a red apple"), ("keys/secret", "a red apple"), ("a fox", "a fox"), ("[a cat,a fox]", "a cat")],
)
def test_the_card_shows_no_line_of_a_file_that_a_run_names(
    prompts: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir()
    for name in ("secret.txt", "keys/secret"):
        (tmp_path / name).write_text("token\n")
    assert choose_prompt(compose_as(TrainSettings, ["cache=c", "run_dir=r", f"pictures.prompts={prompts}"])) == shown


@pytest.mark.parametrize("fails", ["/repos/create", "/preupload/", "/commit/"])
def test_after_an_error_of_the_server_the_export_stays(
    fails: str, online: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's attempts
    before, online.fails = contents(folder), fails
    with pytest.raises(ValueError, match="push=me/model") as raised:
        push_folder(folder, "me/model", private=True)
    assert f"hf upload me/model {folder} . --private" in str(raised.value)
    assert "500" in str(raised.value)
    assert contents(folder) == before
    assert online.files == {}


@pytest.mark.parametrize(
    ("token", "words", "named"),
    [
        ("", [], ["hf auth login", "HF_TOKEN"]),
        ("hf_other", [], ["401", "hf auth login"]),
        (TOKEN, ["push=model"], ["push=model", "USER/NAME"]),
        (TOKEN, ["layout=null"], ["push=me/model", "layout=diffusers"]),
        (TOKEN, ["push=null", "push_private=false"], ["push_private=false"]),
    ],
)
def test_what_cannot_be_uploaded_is_refused_before_anything_is_written(
    token: str,
    words: list[str],
    named: list[str],
    online: FakeHub,
    trained: Path,
    ldm_train: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    out = "out.safetensors" if "layout=null" in words else "out"
    basic = [f"run_dir={trained}", f"out={tmp_path}/{out}", "layout=diffusers", "push=me/model"]
    answer = ldm_train("export", *basic, *words)
    assert answer.code == 1
    for part in named:
        assert part in answer.err
    assert list(tmp_path.iterdir()) == []
    assert "/api/repos/create" not in online.asked
