"""A headless Chromium, driven by its own protocol over a pipe: nothing but the browser is needed.

See https://chromedevtools.github.io/devtools-protocol/ for the commands.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--disable-extensions",
    "--remote-debugging-pipe", "--hide-scrollbars", "--mute-audio",
)  # fmt: skip


class Browser:
    """One tab of a browser.

    Attributes:
        folder: where downloads go.
        address: of the page that a test has opened.
    """

    folder: Path
    address: str = ""

    def __init__(self, profile: Path, *, size: tuple[int, int] = (1280, 800), flags: tuple[str, ...] = ()) -> None:
        assert CHROMIUM is not None
        here_out, there_in = (_high(end) for end in reversed(os.pipe()))
        there_out, here_in = (_high(end) for end in reversed(os.pipe()))
        arguments = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", "--window-size={},{}".format(*size)]
        log = _high(os.open(profile.with_suffix(".log"), os.O_WRONLY | os.O_CREAT))
        redirect = [(os.POSIX_SPAWN_DUP2, there_in, 3), (os.POSIX_SPAWN_DUP2, there_out, 4)]
        redirect += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        # Processes of its own group, so that all of them end with it.
        self.process = os.posix_spawn(
            CHROMIUM, [*arguments, "about:blank"], os.environ, file_actions=redirect, setpgroup=0
        )
        for end in (there_in, there_out, log):
            os.close(end)
        self.input, self.output = here_in, here_out
        self.numbers = itertools.count(1)
        self.buffer = b""
        self.events: list[dict[str, Any]] = []
        self.session = ""

    def attach(self) -> None:
        """Takes hold of the tab."""
        target = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Ends the browser."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.input)
        os.close(self.output)

    def call(self, method: str, *, timeout: float = 30, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result; events that come meanwhile are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + timeout
        while True:
            answer = self._receive(until, method)
            if answer.get("id") != number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self, until: float, what: str) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.input], [], [], max(0, until - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer to {what}")
            part = os.read(self.input, 1 << 20)
            if not part:
                raise RuntimeError(f"the browser ended during {what}")
            self.buffer += part
        text, _, self.buffer = self.buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def open(self, url: str) -> None:
        """Goes to an address."""
        self.call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """Evaluates JavaScript in the page; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def wait(self, condition: str, timeout: float = 30) -> None:
        """Waits until JavaScript is true."""
        until = time.monotonic() + timeout
        while not self.run(condition):
            if time.monotonic() > until:
                raise TimeoutError(f"{condition}; the page says: {self.run('document.body.innerText')}")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Presses and releases the mouse in the middle of an element that can be seen."""
        self.wait(f"!!document.querySelector({selector!r})?.checkVisibility()")
        find = f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'nearest'}}); "
        find += "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        x, y = self.run(find)
        mouse = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **mouse)

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        typed = {"Enter": {"text": "\r", "windowsVirtualKeyCode": 13}, "Tab": {"windowsVirtualKeyCode": 9}}[key]
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, **typed)

    def choose(self, selector: str, path: Path) -> None:
        """Gives a file to an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop(self, selector: str, path: Path) -> None:
        """Drags a file onto an element and lets it go."""
        x, y = self.run(
            f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def downloads(self, folder: Path) -> None:
        """Lets downloads go to a folder."""
        self.folder = folder
        session, self.session = self.session, ""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), eventsEnabled=True)
        self.session = session

    def screenshot(self, path: Path) -> None:
        """Writes what the tab shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self, *levels: str) -> list[str]:
        """Returns exceptions of scripts, and messages of these levels in the browser's log and the console."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in levels:
                text = f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}"
                found.append(text)
            if event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in levels:
                found.append(str(parameters["args"]))
        return found


@contextlib.contextmanager
def browser(folder: Path, **options: Any) -> Iterator[Browser]:
    """Starts a browser with a fresh profile and ends it."""
    tab = Browser(folder / "profile", **options)
    try:
        tab.attach()
        yield tab
    finally:
        tab.close()


@contextlib.contextmanager
def serving(page: Path) -> Iterator[str]:
    """Serves a page by its own serve.py; gives the address."""
    command = [sys.executable, str(page / "serve.py"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def wait_for(path: Path, timeout: float = 30) -> Path:
    """Waits until a download is there."""
    until = time.monotonic() + timeout
    while not path.is_file():
        if time.monotonic() > until:
            raise TimeoutError(f"{path.name} was not downloaded; there are {sorted(path.parent.iterdir())}")
        time.sleep(0.05)
    return path


def _high(end: int) -> int:
    """Moves a file descriptor out of the way of 3 and 4, which the browser gets."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return moved
