"""A headless Chromium, spoken to over its DevTools protocol through a pair of pipes: JSON messages, each ended by a zero."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]


class PageError(AssertionError):
    """What the page's own script, or a command to the browser, answered with."""


class Chromium:
    """One tab; `events` holds all that it reported, in order."""

    def __init__(self) -> None:
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        assert program is not None, "no Chromium is installed"
        self.profile = tempfile.TemporaryDirectory(prefix="ldm-train-chromium-", ignore_cleanup_errors=True)
        profile = f"--user-data-dir={self.profile.name}"
        ours, its = os.pipe(), os.pipe()
        self.process = subprocess.Popen(
            # The browser reads from 3 and writes to 4.
            ["bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{its[1]}', "-", program, *FLAGS, profile],
            pass_fds=(ours[0], its[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(its[1])
        self.to, self.answers = os.fdopen(ours[1], "wb", buffering=0), os.fdopen(its[0], "rb")
        self.events: list[dict[str, Any]] = []
        self.count, self.session, self.unread = 0, "", b""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        self.to.close()
        self.answers.close()
        self.profile.cleanup()

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """The answer to a command; what is reported before it is kept."""
        self.count += 1
        message: dict[str, object] = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        while True:
            reported = self._next()
            if reported.get("id") == self.count:
                if "error" in reported:
                    raise PageError(f"{method}: {reported['error']}")
                found: dict[str, Any] = reported["result"]
                return found

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            part = os.read(self.answers.fileno(), 2**20)
            assert part, "the browser ended"
            self.unread += part
        message, _, self.unread = self.unread.partition(b"\0")
        reported: dict[str, Any] = json.loads(message)
        if "method" in reported:
            self.events.append(reported)
        return reported

    def open(self, path: Path, *, width: int, height: int = 900, touch: bool = False) -> None:
        """Load a file in a window of this size, to the end."""
        self.visit(path.resolve().as_uri(), width=width, height=height, touch=touch)

    def visit(self, address: str, *, width: int, height: int = 900, touch: bool = False) -> None:
        """Load an address in a window of this size, to the end."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Emulation.setTouchEmulationEnabled", enabled=touch, maxTouchPoints=5 if touch else 1)
        self._load("about:blank")  # a page that is left reports the requests that it breaks off
        self._load(address)

    def _load(self, address: str) -> None:
        self.events.clear()
        self.ask("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression, as plain data."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise PageError(json.dumps(found["exceptionDetails"]))
        return found["result"].get("value")

    def troubles(self) -> list[str]:
        """Errors on the console, exceptions, and what was blocked."""
        self.value("0")  # whatever is under way has been reported when this is answered
        found = []
        for event in self.events:
            method, reported = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(reported))
            elif method == "Log.entryAdded" and reported["entry"]["level"] in ("error", "warning"):
                found.append(reported["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and reported["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(reported["args"]))
        return found

    def requests(self) -> list[str]:
        """Every address that was asked for, but for the page's own data."""
        addresses = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [address for address in addresses if not address.startswith("data:")]

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """The mouse, pressed at one place and let go at another."""
        self.mouse("mousePressed", start)
        for share in (0.3, 0.7, 1.0):
            place = tuple(a + share * (b - a) for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", (place[0], place[1]), buttons=1)
        self.mouse("mouseReleased", end)

    def mouse(self, kind: str, place: tuple[float, float], *, buttons: int = 0, clicks: int = 1) -> None:
        button = "none" if kind == "mouseMoved" and not buttons else "left"
        more = {"button": button, "buttons": buttons, "clickCount": 0 if kind == "mouseMoved" else clicks}
        self.ask("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **more)

    def touch(self, kind: str, *places: tuple[float, float]) -> None:
        """Fingers at these places."""
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        self.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    def key(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """What is in sight, or the whole page, as a PNG file."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"])
