"""Opens, resizes and prints a page in headless Chromium, with the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """One tab of the browser."""

    def __init__(self, out: int, into: int) -> None:
        self._out, self._in = os.fdopen(out, "wb", buffering=0), os.fdopen(into, "rb")
        self._calls = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a call and return its answer. Events that come before the answer are stored."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._calls:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._in.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            message += byte
        return json.loads(message)

    def open(self, page: Path, width: int = 1280, height: int = 900, **media: str) -> None:
        """Load a file on a screen of this size. `media` are features such as prefers_color_scheme="dark"."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.emulate("screen", **media)
        self.events.clear()
        self("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def emulate(self, media: str, **features: str) -> None:
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self("Emulation.setEmulatedMedia", media=media, features=named)

    def evaluate(self, expression: str) -> Any:
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and requests for anything but the page itself."""
        found = []
        for event in self.events:
            params = event["params"]
            if event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(json.dumps(params))
            elif event["method"] == "Network.requestWillBeSent" and params["type"] != "Document":
                found.append(params["request"]["url"])
        return found

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def pdf(self, **features: str) -> bytes:
        """The page printed on A4, with the margins that it sets."""
        self.emulate("print", **features)
        printed = self("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=False)
        return base64.b64decode(printed["data"])


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """Chromium with a new profile, without its sandbox, which does not work for root."""
    assert PROGRAM is not None
    (its_in, out), (into, its_out) = os.pipe(), os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += [f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    # DevTools reads descriptor 3 and writes descriptor 4; a shell sets them up.
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "bash", PROGRAM, *options],
        pass_fds=(its_in, its_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_in)
    os.close(its_out)
    try:
        yield Tab(out, into)
    finally:
        process.terminate()
        process.wait(timeout=20)
