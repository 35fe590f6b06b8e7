"""What a run sees in images: one HTML page, and its figures as PNG files.

    python -m keras_alexnet.explain --model_dir=RUN IMAGE... [--out=DIR]

Of each image: its best classes, Grad-CAM, occlusion, feature maps, and the effect of the normalizations. Of the run:
the filters of conv1, and the parts of images that its maps answer to most, beside their projections by a deconvnet. The
functions of `keras_alexnet.model.explanations` and `...filters`, which return arrays, are here too.
"""

import base64
import dataclasses
import html
import io
import os
import re
import string
import types
import typing
from pathlib import Path

import numpy as np
from PIL import Image

from keras_alexnet import config as configs, flags, rundir
from keras_alexnet.cli import hidden_library_messages, run_command, start_tensorflow
from keras_alexnet.data import imagenet
from keras_alexnet.data.sources import conversion
from keras_alexnet.errors import ArgumentError, RunError, UsageError, printable
from keras_alexnet.evaluate import EvaluateConfig
from keras_alexnet.files import atomic_write, make_folder
from keras_alexnet.flags import flag
from keras_alexnet.model import filters
from keras_alexnet.predict import check_files

TEMPLATE = Path(__file__).with_name("explain.html")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
BEST = 5
SQUARE, STEP = 64, 16  # pixels, of occlusion
MAPS, COLUMNS, TILE = 12, 6, 64  # feature maps shown of a layer's tower, in a line, and their size at least
UNITS, STRONGEST, PATCH = 2, 3, 72  # maps of a tower that are projected, images of each, and their size
FILTER_SCALE = 5  # pixels per weight
_BATCH = 16
# Matplotlib's colormap "magma" at 0, 1/4 ... 1 (CC0), of what is drawn over an image.
_HEAT = np.array([(0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191)])


@dataclasses.dataclass(frozen=True)
class ExplainConfig:
    """Explanations."""

    model_dir: str | None = flag(None, "A run's folder.", path=True)
    images: tuple[str, ...] = flag((), "JPEG or PNG files.")
    out: str | None = flag(None, "Folder for explain.html and the PNG files (default: RUN/explain).", path=True)
    checkpoint: str = flag("newest", configs.CHECKPOINT_HELP, choices=configs.CHECKPOINT)
    class_name: str | None = flag(None, "The class to explain (default: each image's most probable one).")
    sample: int = flag(
        100, "Images of the set that are searched for what maps answer to most; 0: leave it out.", low=0, high=100_000
    )
    dataset: str | None = flag(None, "The set: as in training (default: the dataset of the run).")
    data_dir: str | None = flag(None, "The set: as in training (default: the folder of the run's set).", path=True)
    split: str | None = flag(None, "The set: as in evaluation (default: the validation split).")


class Panel(typing.NamedTuple):
    """A part of the page."""

    title: str
    text: str
    figures: list  # of (name, caption, uint8 pixels (rows, columns, 3))
    bars: tuple = ()  # of (class name, probability)


def __getattr__(name):
    """The functions that compute; the modules that need TensorFlow are imported when one is used first."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(filters, name) if hasattr(filters, name) else getattr(modules().explanations, name)


def main(argv):
    config = flags.parse(ExplainConfig, argv, __doc__, positional="images")
    rundir.check_run(flags.required(config, "model_dir"))
    check_files(config.images)
    names, out = rundir.read_class_names(config.model_dir), config.out or os.path.join(config.model_dir, "explain")
    if config.class_name not in (None, *names):
        problem = f"is not one of the run's {len(names)} classes, such as {names[0]}"
        raise ArgumentError("class_name", config.class_name, problem)
    make_folder("out", out, out)
    start_tensorflow()
    run = rundir.open_run(config.model_dir, config.checkpoint)
    views = [load(path, config.model_dir) for path in config.images]
    sample = draw_sample(config, run) if config.sample else None
    model, sections = rundir.build(run), {}
    for number, (path, view) in enumerate(zip(config.images, views, strict=True), 1):
        panels = image_panels(model, *view, names, config.class_name)
        name, probability = panels[0].bars[0]
        print(f"{printable(path)}: {printable(name)}, {percent(probability)}")
        sections[f"{number}_{Path(path).stem}"] = printable(os.path.basename(path)), panels
    sections["run"] = "The run", [filter_panel(model), *(sample_panels(model, *sample) if sample else ())]
    network, epochs = run.config.network, len(run.history)
    trained = f"trained for {epochs} epoch{'s' * (epochs > 1)} on {run.statistics.count:,} images"
    trained = trained if epochs else "not trained here"
    lead = f"{network.variant}, width {network.width:g}, {len(names)} classes, {trained}."
    for slug, (_, panels) in sections.items():
        for name, _, pixels in (figure for panel in panels for figure in panel.figures):
            path = os.path.join(out, re.sub(r"[^0-9A-Za-z]+", "_", f"{slug[:40]} {name}") + ".png")
            with atomic_write(path, "wb") as file:
                file.write(png(pixels))
    path = os.path.join(out, "explain.html")
    with atomic_write(path) as file:
        file.write(page(f"What {os.path.basename(os.path.abspath(config.model_dir))} sees", lead, sections.values()))
    print(f"{sections['run'][1][0].text}\npage: {path}")


def load(path, model_dir):
    """An image file as a run's network sees it: (uint8 (size, size, 3), float32 of the same shape, minus the mean).

    Without a run, None, as a network for ImageNet does. Raises RunError of a file that is not an image.
    """
    applications = modules().applications
    try:
        with hidden_library_messages():
            pixels = applications.load_image(path, run=model_dir)
    except ValueError as error:
        with open(path, "rb") as file:
            kind = conversion(file.read(16), path)
        raise RunError(printable(f"{path}: {kind}" if kind else str(error))) from None
    return pixels, applications.preprocess_input(pixels, run=model_dir)


def draw_sample(config, run):
    """Images of the set of an ExplainConfig, as `load` returns one: uint8 and float32 (N, size, size, 3)."""
    given = EvaluateConfig(dataset=config.dataset, data_dir=config.data_dir, split=config.split)
    evaluation = modules().evaluation
    try:
        pixels = evaluation.sample(given, evaluation.of_run(run, None), config.sample)
    except UsageError as error:
        raise UsageError(f"{error}; or leave the images of the set out: --sample=0") from None
    return pixels, modules().applications.preprocess_input(pixels, run=run.model_dir)


def image_panels(model, pixels, inputs, class_names, class_name=None):
    """The part of the page that explains an image, see `load`: list of Panel, the first with its best classes.

    `model`: keras.Model of the run; `class_name`: what is explained, one of the class names or None for the best.
    """
    explanations, batch, names = modules().explanations, inputs[None], [*map(imagenet.word, class_names)]
    scores = explanations.probabilities(model, batch)[0]
    label = int(scores.argmax()) if class_name is None else class_names.index(class_name)
    covered = explanations.occlusion(model, inputs, label, SQUARE, STEP, _BATCH)
    text = (
        f"The probability of {names[label]} is {percent(scores[label])}; with a gray square of {SQUARE} pixels over "
        f"the image {percent(covered.min())} to {percent(covered.max())}, by its place (Zeiler and Fergus 2013)."
    )
    middles = [SQUARE / 2 + STEP * np.arange(length) for length in covered.shape]
    lost = overlay(pixels, np.maximum(scores[label] - covered, 0), middles, scores[label])
    maps = explanations.feature_maps(model, batch)
    figures = [map_figure(named(name, parts, part), part[0]) for name, parts in maps.items() for part in parts]
    return [
        classes_panel(pixels, scores, names),
        grad_cam_panel(model, pixels, batch, label, names[label]),
        Panel("Occlusion", text, [("occlusion", "Bright: what covering this place costs.", lost)]),
        *normalization_panels(model, batch),
        Panel("Feature maps", "Those with the largest means first, each scaled by its own largest number.", figures),
    ]


def classes_panel(pixels, scores, names):
    """An image and its most probable classes."""
    bars = tuple((names[place], float(scores[place])) for place in np.argsort(-scores, kind="stable")[:BEST])
    return Panel("What the network sees", "", [("crop", "The center of the image.", pixels)], bars)


def grad_cam_panel(model, pixels, batch, label, class_name):
    """Where the last convolution speaks for a class."""
    towers, joined = modules().explanations.grad_cam(model, batch, [label])
    heats = {f"tower {tower}": own[0] for tower, own in enumerate(towers) if len(towers) > 1} | {"joined": joined[0]}
    peak, figures = max(heat.max() for heat in heats.values()), []
    for name, heat in heats.items():
        middles = [(np.arange(length) + 0.5) * len(pixels) / length for length in heat.shape]
        drawn = overlay(pixels, heat, middles, peak)
        figures.append((f"gradcam {name}", f"{name}: {heat.max():.3g} at most", drawn))
    text = f"Where the last convolution speaks for {class_name}, on one scale."
    more = " Each tower has half of its maps; joined is their sum, the map of the whole network."
    return Panel("Grad-CAM", text + more * (len(towers) > 1), figures)


def normalization_panels(model, batch):
    """The strongest maps before and behind each response normalization: list of Panel."""
    panels = []
    for name in ("norm1", "norm2"):
        figures, all_shares = [], []
        towers = modules().explanations.normalization(model, batch, name)
        for each in towers:
            before, order, shares = each.before[0], strongest(each.before[0], COLUMNS), each.inhibited()[0]
            lines = [tile(maps[..., order], before[..., order]) for maps in (before, each.after[0] * each.factor)]
            caption = f"{named(name, towers, each)}: inhibited {', '.join(map(percent, shares[order]))}"
            figures.append((named(name, towers, each), caption, np.concatenate(lines)))
            all_shares.extend(shares)
        if towers:
            text = (
                "Section 3.3: maps are divided by more where those beside them are active. Before (above) and behind, "
                "without the constant k^beta that everything is divided by. Of the activation of a map "
                f"{percent(np.mean(all_shares))} is inhibited, {percent(np.max(all_shares))} at most."
            )
            panels.append(Panel(f"Response normalization: {name}", text, figures))
    return panels


def filter_panel(model):
    """The filters of conv1, and what Zeiler and Fergus found in them."""
    found = filters.summary(model)
    text = (
        f"{found['dead']} of {found['filters']} filters of conv1 are dead (weights below {percent(filters.DEAD)} of "
        f"all filters', by root mean squares). {percent(found['aliasing'])} of the energy of all filters, and "
        f"{percent(found['median_aliasing'])} of the median filter's, is at frequencies that a stride of "
        f"{found['stride']} cannot carry, which alias; in random ones {percent(found['random_aliasing'])}. Zeiler and "
        "Fergus (2013, arXiv 1311.2901) found both in this network; --topology=zf is their remedy."
    )
    grid = filters.conv1_grid(model, FILTER_SCALE, smooth=True)
    return Panel("Filters of conv1", text, [("filters", "First tower or half above, second below.", grid)])


def sample_panels(model, pixels, inputs):
    """What the strongest maps of each layer answer to in a set, see `draw_sample`: list of Panel."""
    explanations, panels = modules().explanations, []
    batches = [inputs[first : first + _BATCH] for first in range(0, len(inputs), _BATCH)]
    found, deconvnet = [explanations.peaks(model, batch) for batch in batches], explanations.deconvnet(model)
    text = (
        f"Of {len(pixels)} images of the set, those that a map answers to most. Above: its largest number, projected "
        "back to pixels by a deconvolutional network (Zeiler and Fergus 2013); below: the part of the image that this "
        "reaches. "
    )
    for layer in found[0]:
        towers, figures, silent = list(zip(*(each[layer] for each in found), strict=True)), [], []
        for tower, parts in enumerate(towers):
            peaks = np.concatenate(parts)  # (images, maps)
            silent.extend(peaks.max(axis=0) <= 0)
            for unit in np.argsort(-peaks.mean(axis=0), kind="stable")[:UNITS]:
                order = np.argsort(-peaks[:, unit], kind="stable")[:STRONGEST]
                projections = explanations.project(deconvnet, inputs[order], layer, tower, unit)
                name = f"{named(layer, towers, parts)}, map {unit}"
                numbers = ", ".join(f"{peak:.3g}" for peak in peaks[order, unit])
                figures.append((name, f"{name}: {numbers}", patch_lines(projections, pixels[order])))
        text += f"{sum(silent)} of {len(silent)} maps are 0 in all of them."
        panels.append(Panel(f"What {layer} answers to", text, figures))
        text = ""
    return panels


def patch_lines(projections, pixels):
    """Projections, (N, rows, columns, 3), above the parts of images that they reach: uint8 pixels."""
    lines = [], []
    for projection, image in zip(projections, pixels, strict=True):
        rows, columns = modules().explanations.patch(projection)
        shown = np.round(127.5 + 127.5 * projection / max(np.abs(projection).max(), 1e-30)).astype(np.uint8)
        for line, each in zip(lines, (shown, image), strict=True):
            line.append(np.asarray(Image.fromarray(each[rows, columns]).resize((PATCH, PATCH), Image.BICUBIC)) / 255)
    return np.concatenate([filters.tiles(np.stack(line, axis=-1), len(line), border=2) for line in lines])


def strongest(maps, count):
    """The places of the maps with the largest means, (rows, columns, maps) -> int (count,), strongest first."""
    return np.argsort(-np.abs(maps).mean((0, 1)), kind="stable")[:count]


def map_figure(name, maps):
    """The strongest maps of a layer's tower, (rows, columns, maps), side by side."""
    shown, silent = maps[..., strongest(maps, MAPS)], (np.abs(maps).max((0, 1)) == 0).sum()
    caption = f"{name}: {shown.shape[-1]} of {maps.shape[-1]} maps of {len(maps)}x{len(maps)}; {silent} of all are 0"
    return name, caption, tile(shown, shown)


def tile(maps, scale):
    """Maps (rows, columns, N), from black, 0, to white, the largest of each map of `scale`, side by side: uint8 pixels.

    With negative numbers, as of tanh, 0 is mid-gray.
    """
    shades = maps / np.maximum(np.abs(scale).max((0, 1)), 1e-30)
    shades = shades / 2 + 0.5 if scale.min() < 0 else np.clip(shades, 0, 1)
    larger = filters.upsampled(shades[:, :, None], max(1, round(TILE / len(maps))), smooth=False)
    return filters.tiles(larger, min(COLUMNS, maps.shape[-1]), border=2)


def overlay(pixels, heat, middles, peak):
    """An image in gray, and over it numbers of 0..peak, (rows, columns), with their middles in pixels: uint8 pixels."""
    for axis in (0, 1):
        places = np.arange(pixels.shape[axis])
        heat = np.apply_along_axis(lambda line, x, own: np.interp(x, own, line), axis, heat, places, middles[axis])
    share, ends = heat / max(peak, 1e-30), np.linspace(0, 1, len(_HEAT))
    colors = np.stack([np.interp(share, ends, channel) for channel in _HEAT.T], axis=-1)
    return np.round(0.45 * pixels.mean(axis=-1, keepdims=True) + 0.55 * colors).astype(np.uint8)


def named(name, towers, own):
    """The name of a layer's tower, one of a list."""
    tower = next(place for place, each in enumerate(towers) if each is own)
    return f"{name}, tower {tower}" if len(towers) > 1 else name


def percent(share):
    return f"{100 * share:.1f} %"


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def page(title, lead, sections):
    """The HTML page, str, of sections (title, list of Panel)."""
    body = [f"<p>{html.escape(lead)}</p>"]
    for heading, panels in sections:
        body += [f"<h2>{html.escape(heading)}</h2>", *map(panel_html, panels)]
    return document(title, "\n".join(body))


def document(title, body, policy=POLICY):
    """An HTML page, str, of a title, the HTML below it and a Content-Security-Policy."""
    title, template = html.escape(title), string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=title, body=f"<h1>{title}</h1>\n{body}", policy=policy)


def panel_html(panel):
    """A Panel as HTML, str, which contains its figures."""
    text = f"<p>{html.escape(panel.text)}</p>\n" * bool(panel.text)
    parts = [f'<h3>{html.escape(panel.title)}</h3>\n{text}<div class="figures">']
    for _, caption, pixels in panel.figures:
        source, text = base64.b64encode(png(pixels)).decode(), html.escape(caption)
        size = f'width="{pixels.shape[1]}" height="{pixels.shape[0]}"'
        image = f'<img {size} alt="{text}" src="data:image/png;base64,{source}">'
        parts.append(f'<figure style="width: {pixels.shape[1]}px">{image}<figcaption>{text}</figcaption></figure>')
    bars = [
        f'<div style="--share: {100 * share:.1f}%"><span>{html.escape(name)}</span><span>{percent(share)}</span></div>'
        for name, share in panel.bars
    ]
    parts += ['<div class="bars">', *bars, "</div>"] if bars else []
    return "\n".join([*parts, "</div>"]).replace(" %", "&nbsp;%")


def modules():
    """Modules that import TensorFlow, which a wrong flag does not wait for."""
    from keras_alexnet import applications, evaluation
    from keras_alexnet.model import explanations, weights
    from keras_alexnet.paper import features

    needed = applications, evaluation, explanations, features, weights
    return types.SimpleNamespace(**{each.__name__.rpartition(".")[2]: each for each in needed})


if __name__ == "__main__":
    raise SystemExit(run_command("explain", main))
