"""Chromium without a window, by its DevTools protocol over a pipe; the standard library is enough for it."""

import json
import os
import shutil
import subprocess

import pytest


class Browser:
    """One tab. `problems`: what its console says of errors, list of str; `asked`: the addresses of its requests."""

    def __init__(self, folder):
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if program is None:
            pytest.skip("no Chromium")
        (theirs, self.to), (self.back, answers) = os.pipe(), os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={folder}"]

        def connect():  # the protocol's file descriptors are 3 and 4
            os.dup2(os.dup(theirs), 3), os.dup2(os.dup(answers), 4)

        # The copies are above 4 already, so that nothing is overwritten.
        self.process = subprocess.Popen(
            [program, *flags], preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs), os.close(answers)
        self.count, self.rest, self.session, self.problems, self.asked = 0, b"", None, [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """What a method of the protocol returns, dict; events that come before are noted."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                self.rest += os.read(self.back, 2**20)
            text, _, self.rest = self.rest.partition(b"\0")
            found = json.loads(text)
            if found.get("id") == self.count:
                assert "error" not in found, found
                return found["result"]
            event, values = found.get("method"), found.get("params", {})
            if event == "Network.requestWillBeSent":
                self.asked.append(values["request"]["url"])
            if event == "Runtime.exceptionThrown" or values.get("entry", {}).get("level") == "error":
                self.problems.append(text.decode())

    def run(self, script):
        """The value of a script, waiting for its promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.run('new Promise(done => document.readyState === "complete" ? done() : addEventListener("load", done))')

    def resize(self, width):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.to), os.close(self.back)
