"""A page of this machine that shows what a model sees in an image that is dropped on it.

    python -m keras_alexnet.explore --model=RUN [--examples=FOLDER] [--index=FILE.npz]

The page is at http://127.0.0.1:8600 until Ctrl-C. Of an exported model it shows the classes and nearest images only. An
index is made by `python -m keras_alexnet.paper.retrieval --model_dir=RUN --data_dir=IMAGES --query=IMAGE --index=FILE`.
"""

import base64
import contextlib
import dataclasses
import html
import http.server
import os
import secrets
import string
import sys
import tempfile
import threading
import types
from pathlib import Path

import numpy as np

from keras_alexnet import explain, flags, rundir
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.data import imagenet
from keras_alexnet.data.sources import SUFFIXES, conversion
from keras_alexnet.errors import ArgumentError, RunError, UsageError, brief, printable
from keras_alexnet.evaluate import EvaluateConfig
from keras_alexnet.explain import Panel
from keras_alexnet.flags import flag
from keras_alexnet.paper import retrieval

TEMPLATE = Path(__file__).with_name("explore.html")
MEGABYTES = 32  # of an image, at most
EXAMPLES, NEAREST, PASSES = 12, 6, 30
THUMBNAIL = 96  # pixels
EXPORTED = " Of an exported model: the classes, and the nearest images of --index; all else needs a run, --model=RUN."
SECONDS = 30  # that a browser may take to send an image


@dataclasses.dataclass(frozen=True)
class ExploreConfig:
    """Explorer."""

    model: str | None = flag(None, "The folder of a run, or of an exported model (RUN/export/1).", path=True)
    examples: str | None = flag(None, "Folder of images to choose from (default: the run's validation set).", path=True)
    index: str | None = flag(None, "An index of keras_alexnet.paper.retrieval, to show the nearest images.", path=True)
    port: int = flag(8600, "Port on 127.0.0.1; 0: any that is free.", low=0, high=65535)


def main(argv):
    config = flags.parse(ExploreConfig, argv, __doc__)
    rundir.check_path(rundir.located(flags.required(config, "model")), "model")
    if config.examples and not os.path.isdir(config.examples):
        raise ArgumentError("examples", config.examples, "is not a folder; name one with images in it")
    if config.index and not os.path.isfile(config.index):
        raise ArgumentError("index", config.index, "there is no such file; keras_alexnet.paper.retrieval writes one")
    start_tensorflow()
    explorer = Explorer(config)
    try:
        server = Server(explorer, config.port)
    except OSError as error:
        problem = f"cannot be used ({error.strerror}); name another one, or 0 for any"
        raise ArgumentError("port", config.port, problem) from None
    with server, contextlib.suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_port} (Ctrl-C ends it)")
        server.serve_forever()


class Explorer:
    """A model, and what the page shows of images. One image is computed at a time."""

    def __init__(self, config):
        needed, self.folder, self.lock, self.network = explain.modules(), config.model, threading.Lock(), None
        if rundir.is_run(config.model):
            run = rundir.open_run(config.model)
            self.network, self.plain = rundir.build(run), None
            if any(layer.name.startswith("norm") for layer in self.network.layers):
                settings = dataclasses.replace(run.config.network, local_response_normalization=False)
                self.plain = rundir.build(run, settings)
            served = types.SimpleNamespace(weights=needed.weights.variables(self.network))
            model = needed.evaluation.of_run(run, served)
        else:
            model = needed.evaluation.open_model(config.model)
            self.signatures, self.size, self.data = model.served.signatures, model.size, model.config.data
        self.names, self.index = [*map(imagenet.word, model.class_names)], None
        if config.index:
            self.index = needed.features.load_index(config.index)
            if self.index.model != needed.features.model_identity(model):
                raise ArgumentError("index", config.index, f"is of another model than --model={config.model}")
        self.examples, self.nonce = example_paths(config, model), secrets.token_urlsafe(16)  # which allows our script
        self.policy = f"{explain.POLICY}; script-src 'nonce-{self.nonce}'; connect-src 'self'"

    def page(self):
        buttons = []
        thumbnails = explain.modules().features.thumbnails(self.examples, THUMBNAIL) if self.examples else ()
        for place, (path, pixels) in enumerate(zip(self.examples, thumbnails, strict=True)):
            source, name = base64.b64encode(explain.png(pixels)).decode(), html.escape(printable(Path(path).name))
            image = f'<img alt="{name}" src="data:image/png;base64,{source}">'
            buttons.append(f'<button type="button" value="{place}" title="{name}">{image}</button>')
        lead = f"{len(self.names)} classes." + EXPORTED * (self.network is None)
        values = {"lead": lead, "nonce": self.nonce, "megabytes": MEGABYTES, "examples": "\n".join(buttons)}
        body = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(values)
        title = f"What {printable(os.path.basename(os.path.abspath(self.folder)))} sees"
        return explain.document(title, body, self.policy)

    def answer(self, content):
        """What is shown of an image file, bytes: HTML, str. Raises RunError of what is not an image."""
        with self.lock, tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            try:
                if self.network:
                    panels = self._of_run(*explain.load(file.name, self.folder))
                else:
                    panels = self._of_export(content)
            except RunError as error:
                converted = conversion(content[:16], "IMAGE") or str(error).removeprefix(f"{file.name}: ")
                raise RunError(f"This is not an image that can be read: {converted}.") from None
            return "\n".join(map(explain.panel_html, panels))

    def _of_run(self, pixels, inputs):
        explanations, batch = explain.modules().explanations, inputs[None]
        scores = explanations.probabilities(self.network, batch)[0]
        best = int(scores.argmax())
        yield explain.classes_panel(pixels, scores, self.names)
        yield explain.grad_cam_panel(self.network, pixels, batch, best, self.names[best])
        parts = explanations.feature_maps(self.network, batch)["conv1"]
        figures = [explain.map_figure(explain.named("conv1", parts, part), part[0]) for part in parts]
        yield Panel("Maps of conv1", "Those with the largest means first, each by its own largest number.", figures)
        yield from explain.normalization_panels(self.network, batch)
        if self.plain:
            without = explain.classes_panel(pixels, explanations.probabilities(self.plain, batch)[0], self.names)
            text = "The same weights without the normalizations, with which they were trained:"
            yield Panel("Normalization off", text, [], without.bars)
        yield self._dropout(batch, best)
        if self.index:
            yield self._nearest(explanations.last_hidden(self.network, batch)[0])

    def _of_export(self, content):
        applications = explain.modules().applications
        files, ways = applications.tf.constant([content]), (self.data.resize, self.data.served_orientation)
        try:
            pixels = applications.decode_center(files[0], self.size, *ways).numpy()
            scores = self.signatures["serving_default"](image_bytes=files)["probabilities"].numpy()[0]
        except applications.tf.errors.InvalidArgumentError as error:
            raise RunError(brief(error)) from None
        panels = [explain.classes_panel(pixels, scores, self.names)]
        if self.index:
            panels.append(self._nearest(self.signatures["features"](image_bytes=files)["features"].numpy()[0]))
        return panels

    def _dropout(self, batch, label):
        """The probability of a class with hidden units left out at random, as in training."""
        scores = explain.modules().explanations.probabilities(
            self.network, np.repeat(batch, PASSES, axis=0), training=True
        )
        counts, _ = np.histogram(scores[:, label], 10, (0, 1))
        bars = [(f"{10 * place} to {10 * place + 10} %", count / PASSES) for place, count in enumerate(counts)]
        text = (
            f"{PASSES} passes with hidden units left out at random, as in training (section 4.2), by the probability "
            f"of {self.names[label]}, which is the best class in {(scores.argmax(axis=1) == label).sum()} of them."
        )
        return Panel("Dropout", text, [], tuple(bars))

    def _nearest(self, vector):
        """The images of the index that are nearest in the last hidden layer (section 6.1)."""
        distances, places = retrieval.Search(self.index.features).nearest(vector, NEAREST)
        paths, classes = np.array(self.index.paths())[places], [*map(imagenet.word, self.index.class_names)]
        labels = [classes[label] if label >= 0 else "" for label in self.index.labels[places]]
        thumbnails = explain.modules().features.thumbnails(paths.tolist(), THUMBNAIL)
        captions = [f"{name} {distance:.4f}" for name, distance in zip(labels, distances, strict=True)]
        text = f"Of {len(self.index.files)} images, by Euclidean distance in the last hidden layer (section 6.1)."
        return Panel("Nearest images", text, list(zip(captions, captions, thumbnails, strict=True)))


def example_paths(config, model):
    """The paths of the images to choose from, list of str; [] where the run's set is not there or is not of files."""
    if config.examples:
        paths = [str(path) for path in sorted(Path(config.examples).rglob("*")) if path.suffix.lower() in SUFFIXES]
        if not paths:
            raise ArgumentError("examples", config.examples, "holds no JPEG or PNG files; name another folder")
    else:
        try:
            source, _ = explain.modules().evaluation.open_set(EvaluateConfig(), [model], None, False)
        except (UsageError, RunError) as error:
            print(f"no examples: {error}", file=sys.stderr)
            return []
        paths = source.paths() if hasattr(source, "root") else []
    drawn = np.random.default_rng(2012).permutation(len(paths))[:EXAMPLES]
    return [paths[place] for place in sorted(drawn)]


class Server(http.server.ThreadingHTTPServer):
    """Serves an Explorer to this machine."""

    def __init__(self, explorer, port):
        super().__init__(("127.0.0.1", port), Handler)
        self.explorer = explorer


class Handler(http.server.BaseHTTPRequestHandler):
    """GET /: the page. POST /explain: what is shown of the image file sent, and /explain/N of an example."""

    timeout = SECONDS

    def do_GET(self):  # noqa: N802 (http.server calls it so)
        if self.is_from_here():
            self.reply(*((200, self.server.explorer.page()) if self.path == "/" else (404, "The page is at /.")))

    def do_POST(self):  # noqa: N802
        examples = {f"/explain/{place}": path for place, path in enumerate(self.server.explorer.examples)}
        length, example = self.headers.get("Content-Length", ""), examples.get(self.path)
        if not self.is_from_here():
            return
        if self.path != "/explain" and not example:
            return self.reply(404, "The page is at /.")
        if not example and not (length.isdecimal() and int(length) <= MEGABYTES * 10**6):
            return self.reply(413, f"The file has more than {MEGABYTES} MB, or does not say how many.")
        try:
            content = Path(example).read_bytes() if example else self.rfile.read(int(length))
            answer = 200, self.server.explorer.answer(content)
        except (RunError, OSError) as error:
            answer = 422, str(error)
        self.reply(*answer)

    def is_from_here(self):
        """Whether the page itself asks: no page of another site, and no name that another site points to 127.0.0.1.

        Any other is refused.
        """
        port, origin = self.server.server_port, self.headers.get("Origin")
        ends = (f":{port}", "") if port == 80 else (f":{port}",)  # browsers leave 80 out
        hosts = [name + end for name in ("127.0.0.1", "localhost") for end in ends]
        if self.headers.get("Host") in hosts and origin in (None, *(f"http://{host}" for host in hosts)):
            return True
        self.reply(403, f"Open http://127.0.0.1:{port}/ on this machine; a forwarded port must have the same number.")
        return False

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Type", f"text/{'html' if status == 200 else 'plain'}; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", f"{self.server.explorer.policy}; frame-ancestors 'none'")
        with contextlib.suppress(ConnectionError):  # the browser has left
            self.end_headers()
            self.wfile.write(text.encode())

    def log_message(self, *_):
        """Nothing: what somebody looks at is theirs."""


if __name__ == "__main__":
    raise SystemExit(run_command("explore", main))
