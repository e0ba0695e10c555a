"""Chromium without a window, driven through its debugging protocol over a pipe: pages, mouse, touch and key events.

The protocol is JSON with a zero byte after each message; the browser reads commands from file descriptor 3 and writes
answers and events to 4. Nothing but the browser itself is needed.
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

from tools import need

_TIMEOUT = 60  # seconds, of a command or a condition; the first page on a slow machine takes ten
_KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    " ": ("Space", 32, " "),
    "Escape": ("Escape", 27, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
}


class Browser:
    """A running Chromium; a context manager."""

    def __init__(self):
        chromium, bash = need("chromium", "bash")
        import fcntl  # not on Windows, where there is no program of the name chromium

        self._profile = tempfile.mkdtemp(prefix="browser-")
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # Above 9, so that the numbers 3 and 4 are free in the new process
        inherited = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (commands, answers)]
        for descriptor in (commands, answers):
            os.close(descriptor)
        arguments = [
            "--headless=new",
            "--no-sandbox",  # the tests may run as root, and pages are our own
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-extensions",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile}",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            [bash, "-c", f'exec "$0" "$@" 3<&{inherited[0]} 4>&{inherited[1]}', chromium, *arguments],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in inherited:
            os.close(descriptor)
        self._numbers, self._buffer, self._pages = itertools.count(1), b"", {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        try:
            self.send("Browser.close")
            self._process.wait(10)
        except (OSError, EOFError, subprocess.TimeoutExpired):
            pass
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._commands)
            os.close(self._answers)
            shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method, session=None, **parameters):
        """Send a command and return its result; events that come before it are given to their pages."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _TIMEOUT
        while True:
            answer = self._read(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            page = self._pages.get(answer.get("sessionId"))
            if page is not None:
                page.handle(answer["method"], answer["params"])

    def _read(self, deadline):
        while b"\0" not in self._buffer:
            if not select.select([self._answers], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("no answer of the browser")
            part = os.read(self._answers, 1 << 20)
            if not part:
                raise EOFError("the browser has ended")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, url, *, width=900, height=900, dark=False, phone=False):
        """Open a page in a new tab and wait until it is loaded."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        page.send("Emulation.setTouchEmulationEnabled", enabled=phone)
        page.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        page.send("Page.navigate", url=url)
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    """A page in a tab.

    Attributes
    ----------
    errors : list of str
        Errors and warnings on the console, and exceptions that nothing catches.
    requests : list of str
        URLs of everything that was requested.
    """

    def __init__(self, browser, session, target):
        self.browser, self.session, self.target = browser, session, target
        self.errors, self.requests = [], []

    def send(self, method, **parameters):
        return self.browser.send(method, self.session, **parameters)

    def handle(self, method, parameters):
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("warning", "error"):
            self.errors.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("warning", "error", "assert"):
            self.errors.append(str([each.get("value") for each in parameters["args"]]))

    def evaluate(self, expression):
        """Return the value of an expression, which JSON must hold."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def wait(self, condition):
        """Wait until an expression is true."""
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                if self.evaluate(condition):
                    return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise TimeoutError(f"{condition} is not true")
            time.sleep(0.02)

    def text(self, selector):
        """Return the visible text of an element."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def box(self, selector):
        """Return left, top, width and height of an element in the window, after scrolling to it."""
        return self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'nearest'});"
            " const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
        )

    def mouse(self, kind, x, y, pressed=True):
        """Send a mouse event: "Moved", "Pressed" or "Released"."""
        button = "left" if pressed else "none"
        self.send(
            "Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, button=button, buttons=int(pressed), clickCount=1
        )

    def click(self, selector):
        """Click the middle of an element."""
        left, top, width, height = self.box(selector)
        x, y = left + width / 2, top + height / 2
        self.mouse("Moved", x, y, pressed=False)
        self.mouse("Pressed", x, y)
        self.mouse("Released", x, y)

    def draw(self, selector, strokes, *, touch=False):
        """Draw strokes [x, y, x, y, ...], from 0 to 1, on an element, with the mouse or a finger."""
        left, top, width, height = self.box(selector)
        for stroke in strokes:
            points = [(left + x * width, top + y * height) for x, y in zip(stroke[::2], stroke[1::2])]
            if touch:
                for index, (x, y) in enumerate(points):
                    kind = "touchMove" if index else "touchStart"
                    self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
                self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
                continue
            self.mouse("Moved", *points[0], pressed=False)
            self.mouse("Pressed", *points[0])
            for x, y in points[1:]:
                self.mouse("Moved", x, y)
            self.mouse("Released", *points[-1])

    def press(self, key, times=1):
        """Press and release a key."""
        code, number, text = _KEYS[key]
        for _ in range(times):
            common = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
            self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        """Type text into the element with the focus."""
        self.send("Input.insertText", text=text)

    def screenshot(self, path=None, *, whole=True):
        """Return a picture as PNG, and write it to a path."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        picture = base64.b64decode(data)
        if path is not None:
            with open(path, "wb") as file:
                file.write(picture)
        return picture

    def close(self):
        self.browser.send("Target.closeTarget", targetId=self.target)
