"""A headless Chromium, asked through its DevTools pipe: how a page looks, what it says and what it fetches."""

import base64
import contextlib
import json
import os
import select
import shutil
import tempfile

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds that the browser may be silent when it was asked something


def find():
    """Path of the first Chromium on the PATH, str, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def open_browser(path):
    """Starts a Chromium of its own profile and ends it with the block. Yields a Browser."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()
        actions = [
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            # The pipe is the files 3 and 4, which one of the ends may be: these are out of the way.
            (os.POSIX_SPAWN_DUP2, read_there, 100),
            (os.POSIX_SPAWN_DUP2, write_there, 101),
            (os.POSIX_SPAWN_DUP2, 100, 3),
            (os.POSIX_SPAWN_DUP2, 101, 4),
            (os.POSIX_SPAWN_CLOSE, 100),
            (os.POSIX_SPAWN_CLOSE, 101),
        ]
        process = os.posix_spawn(path, command, os.environ, file_actions=actions)
        os.close(read_there)
        os.close(write_there)
        with open(read_here, "rb") as answers, open(write_here, "wb") as questions:
            browser = Browser(answers, questions)
            try:
                yield browser
            finally:
                # One that has ended, or hangs, ends with its pipe.
                with contextlib.suppress(AssertionError, OSError):
                    browser.call("Browser.close")
        os.waitpid(process, 0)


class Browser:
    """One tab at a time. `requests` and `said` are what the newest page asked for, and its console's lines."""

    def __init__(self, answers, questions):
        self._answers, self._questions = answers, questions
        self._asked, self._session, self._events = 0, None, []
        self._rest = b""

    def load(self, url, width, height, dark=False):
        """Opens a page in a new tab and waits until it and its pictures are loaded."""
        self._session, self._events = None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())

    @property
    def requests(self):
        return [each["params"]["request"]["url"] for each in self._of("Network.requestWillBeSent")]

    @property
    def said(self):
        return [
            *(each["params"]["entry"]["text"] for each in self._of("Log.entryAdded")),
            *(str(each["params"]["args"]) for each in self._of("Runtime.consoleAPICalled")),
            *(str(each["params"]["exceptionDetails"]) for each in self._of("Runtime.exceptionThrown")),
        ]

    def value(self, expression):
        """A JavaScript expression's value, as JSON has it."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"]["value"]

    def screenshot(self, whole=True):
        """The page as PNG, bytes."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def call(self, method, **parameters):
        self._asked += 1
        question = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            question["sessionId"] = self._session
        self._questions.write(json.dumps(question).encode() + b"\0")
        self._questions.flush()
        while (answer := self._next()).get("id") != self._asked:
            self._events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE)
            assert ready, f"the browser has said nothing for {PATIENCE} seconds"
            read = os.read(self._answers.fileno(), 1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _of(self, method):
        return [event for event in self._events if event["method"] == method]
