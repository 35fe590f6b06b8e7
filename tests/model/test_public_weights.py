"""Public weights against the packages that they come from, with random numbers; each package is optional."""

import importlib.util
import os
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet import AlexNet, export, load_image, preprocess_input, train
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.model import caffe, public_weights, weights
from keras_alexnet.model.variants import UNITS, VARIANTS
from tests.data.conftest import encoded
from tests.model.test_caffe import Evil
from tests.runs import REMOVED, ROOT, call, refusal
from tests.tools.conftest import load_tool

CLASSES, STD = 12, 255 * np.array([0.229, 0.224, 0.225])  # as of tests/reference/pytorch.py
# What float32 sums in another order differ by, of the largest number.
NEAR = 1e-5


def natural(width, height, seed):
    """An image whose power falls with the frequency, as that of photographs does."""
    random, total = np.random.default_rng([seed, width, height]), np.full((height, width, 3), 128.0)
    for side in (2, 4, 8, 16, 32, 64, 128, 256):
        fields = random.normal(size=(side, side, 3)) + random.normal(size=(side, side, 1))
        images = [Image.fromarray(fields[..., channel].astype(np.float32)) for channel in range(3)]
        layers = [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image in images]
        total += np.stack(layers, -1) * 35 / side**0.8
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


SIZES = [(500, 375), (375, 500), (640, 480), (300, 260), (1024, 768), (700, 933)]


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed (extra parity)")


@pytest.fixture(scope="module")
def torch():
    needs("torch")
    return importlib.import_module("torch")


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """What tests/reference/pytorch.py writes."""
    needs("torch", "torchvision", "pytorchcv", "onnx")
    folder = tmp_path_factory.mktemp("nets")
    for seed, size in enumerate(SIZES):
        (folder / f"{seed}.jpg").write_bytes(encoded(natural(*size, seed), quality=90))
    subprocess.run([sys.executable, str(ROOT / "tests" / "reference" / "pytorch.py"), str(folder)], check=True)
    return folder


def assert_computes(imported, pixels, expected):
    model, size = AlexNet(**imported.settings, classifier_activation=None, devices=()), pixels.shape[1]
    weights.assign(imported.weights, model)
    found = model(pixels - imported.mean_image[:size, :size]).numpy()
    assert np.abs(found - expected).max() <= NEAR * np.abs(expected).max()


@pytest.mark.parametrize(
    "name, variant, origin",
    [
        ("torchvision", "owt2014", "torchvision's alexnet"),
        ("thin", "owt2014", "torchvision's alexnet"),
        ("alexnet", "imgclsmob", "pytorchcv's alexnet"),
        ("alexnetb", "owt2014", "pytorchcv's alexnetb"),
    ],
)
def test_computes_what_pytorch_computes(nets, name, variant, origin):
    imported, expected = public_weights.read(str(nets / f"{name}.pth")), np.load(nets / f"{name}.npz")
    form = {"variant": variant, "towers": 1, "groups": 1, "num_classes": CLASSES}
    form["width"] = 0.25 if name == "thin" else 1.0
    assert (imported.origin, imported.resize, imported.settings) == (origin, "shorter_side", form)
    assert_computes(imported, expected["pixels"], expected["logits"])
    if name == "thin":
        graph = public_weights.read(str(nets / f"{name}.onnx"))
        assert (graph.origin, graph.settings) == ("torchvision's alexnet as an ONNX graph", form)
        np.testing.assert_equal(graph.weights, imported.weights)


def test_from_a_file_of_torchvision_to_served_answers(nets, tmp_path):
    """The same five classes as torchvision's own transforms give; what differs comes from the resizing only."""
    run, names = tmp_path / "run", [f"class {index}" for index in range(CLASSES)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    flags = (f"--out={run}", f"--class_names={tmp_path}/names.txt")
    code, said, _ = call(load_tool("import_weights"), nets / "thin.pth", *flags)
    assert code == 0 and "torchvision's alexnet, with --variant=owt2014 --resize=shorter_side" in said
    assert "published: 43.48 % top-1, 20.93 % top-5 error, by others" in said
    served = tf.saved_model.load(export.export_run(str(run))).signatures["serving_default"]
    paths, expected = sorted(nets.glob("*.jpg")), np.load(nets / "images.npz")
    answer = served(image_bytes=tf.constant([path.read_bytes() for path in paths]))
    answer = {name: each.numpy() for name, each in answer.items()}
    for ours, theirs in zip(answer["classes"], expected["probabilities"], strict=True):
        assert {name.decode() for name in ours} == {names[label] for label in np.argsort(-theirs)[:5]}
    assert np.abs(answer["probabilities"] - expected["probabilities"]).max() < 0.02
    # With the pixels that torchvision makes of the files, the probabilities are its.
    model = AlexNet(weights=run)
    found = model((expected["images"].transpose(0, 2, 3, 1) * STD).astype(np.float32))
    np.testing.assert_allclose(found, expected["probabilities"], atol=NEAR)
    # And with those that load_image makes, they are the served ones.
    images = np.stack([load_image(path, run=run) for path in paths])
    np.testing.assert_allclose(model(preprocess_input(images, run=run)), answer["probabilities"], atol=NEAR)


def test_bvlc_alexnet_of_onnx(tmp_path):
    """The graph that the onnx package ships; its constant weights are replaced by random ones of fewer units."""
    needs("onnx", "onnxruntime")
    onnx, runtime = (importlib.import_module(name) for name in ("onnx", "onnxruntime"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.float32)
    folder = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light")
    model = onnx.load(os.path.join(folder, "light_bvlc_alexnet.onnx"))
    assert public_weights._of_onnx(os.path.join(folder, "light_bvlc_alexnet.onnx"))[1] == "caffe224"
    graph = model.graph
    for layer, (kernel, bias) in arrays_of("caffe224", seed=2, classes=CLASSES).items():
        kernel *= np.sqrt(2 / np.prod(kernel.shape[1:]))  # which keeps the size of activations
        graph.initializer.append(onnx.numpy_helper.from_array(kernel, f"{layer}_w_0"))
        graph.initializer.append(onnx.numpy_helper.from_array(bias, f"{layer}_b_0"))
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        graph.node.remove(node)
    (flat,) = (each for each in graph.initializer if each.name == "OC2_DUMMY_1")
    flat.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 576]), flat.name))
    graph.node.pop()  # the softmax: logits are compared
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(graph.node[-1].output[0], 1, (None, CLASSES)))
    onnx.save(model, str(tmp_path / "net.onnx"))
    imported = public_weights.read(str(tmp_path / "net.onnx"))
    assert imported.settings["variant"] == "caffe224" and imported.resize == "stretch"
    mean = np.array(caffe.IMAGENET_MEAN, np.float32)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for image in pixels:  # the graph takes one at a time: blue, green, red
        inputs = (image - mean)[..., ::-1].transpose(2, 0, 1)[None]
        (expected,) = session.run(None, {"data_0": np.ascontiguousarray(inputs)})
        assert_computes(imported, image[None], expected)
    # Other networks of this package, and this one with another window, are refused.
    for name in ("squeezenet", "zfnet512", "resnet50"):
        with pytest.raises(RunError, match="is an ONNX graph, but not AlexNet's: ") as raised:
            public_weights.read(os.path.join(folder, f"light_{name}.onnx"))
        assert "\n" not in str(raised.value)
    next(node for node in graph.node if node.op_type == "LRN").attribute[0].i = 7
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(RunError, match="at step 3 LRN 7 .* instead of LRN 5 2e-05 0.75 1.0"):
        public_weights.read(str(tmp_path / "other.onnx"))


def arrays_of(variant, seed=0, classes=7):
    """Random {layer: (kernel, bias)} in PyTorch's axes, of a sixteenth of the width."""
    groups = 1 if VARIANTS[variant].one_tower else 2
    random, units = np.random.default_rng(seed), {**UNITS, **VARIANTS[variant].units}
    c1, c2, c3, c4, c5, fc6, fc7 = (units[name] // 16 for name in (*caffe.LAYERS[:5], "fc6", "fc7"))
    shapes = [(c1, 3, 11, 11), (c2, c1 // groups, 5, 5), (c3, c2, 3, 3)]
    shapes += [(c4, c3 // groups, 3, 3), (c5, c4 // groups, 3, 3)]
    shapes += [(fc6, 36 * c5), (fc7, fc6), (classes, fc7)]
    return {
        layer: (random.normal(size=shape).astype(np.float32), random.normal(size=shape[0]).astype(np.float32))
        for layer, shape in zip(caffe.LAYERS, shapes, strict=True)
    }


def write_hdf5(path, arrays, top="output1"):
    """As tf2cv 0.0.18 writes its weights (compared once with files that it wrote itself)."""
    parts = ["stage1/stage1/unit1", "stage2/stage2/unit1", *(f"stage3/stage3/unit{number}" for number in (1, 2, 3))]
    names = [f"features/features/features/{part}/conv/conv" for part in parts]
    names += [f"{top}/{top}/{part}" for part in ("fc1/fc", "fc2/fc", "fc3")]
    with h5py.File(path, "w") as file:
        for name, (kernel, bias) in zip(names, arrays.values(), strict=True):
            file[f"{name}/kernel:0"] = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
            file[f"{name}/bias:0"] = bias


def write_torch(torch, path, arrays, **more):
    pairs = {f"{layer}.{kind}": array for layer, pair in arrays.items() for kind, array in zip("wb", pair, strict=True)}
    torch.save({name: torch.tensor(array) for name, array in pairs.items()} | more, path)


@pytest.mark.parametrize("variant, name", [("imgclsmob", "alexnet"), ("owt2014", "alexnetb")])
def test_hdf5_of_tf2cv_holds_what_pytorch_holds(torch, tmp_path, variant, name):
    arrays = arrays_of(variant)
    write_hdf5(tmp_path / "net.h5", arrays)
    write_torch(torch, tmp_path / "net.pth", arrays)
    first, second = (public_weights.read(str(tmp_path / f"net.{kind}")) for kind in ("h5", "pth"))
    assert first.origin == f"tf2cv's {name}" and first.settings == second.settings
    assert first.settings == {"variant": variant, "towers": 1, "groups": 1, "width": 1 / 16, "num_classes": 7}
    np.testing.assert_equal(first.weights, second.weights)
    assert set(first.weights) == set(weights.named(AlexNet(**first.settings)))
    with pytest.raises(ValueError, match="is an HDF5 file; make a run of public weights with `python tools/import_"):
        AlexNet(weights=tmp_path / "net.h5")
    # A unit of fc6 that sees one number of pool5 only: map 5, row 2, column 1.
    arrays["fc6"][0][:] = 0
    arrays["fc6"][0][0, 5 * 36 + 2 * 6 + 1] = 1
    write_hdf5(tmp_path / "net.h5", arrays)
    kernel = public_weights.read(str(tmp_path / "net.h5")).weights["fc6/kernel"]
    assert np.argwhere(kernel.reshape(6, 6, -1, kernel.shape[1])).tolist() == [[2, 1, 5, 0]]


def test_what_cannot_be_read_is_named_in_one_line(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = arrays_of("imgclsmob")
    write_torch(torch, "good.pth", good)
    write_torch(torch, "evil.pth", good, more=Evil())
    write_torch(torch, "seven.pth", {name: good[name] for name in list(good)[:-1]})
    write_torch(torch, "grouped.pth", good | {"conv4": (good["conv4"][0][:, :12], good["conv4"][1])})
    write_torch(torch, "expanded.pth", good, more=torch.zeros(1).expand(2**33))
    write_hdf5("other.h5", good, top="dense")
    content = (tmp_path / "good.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "page.pth").write_text("<html>Sign in to download</html>")
    (tmp_path / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x03" + b"no graph" * 9)
    before = sorted(os.listdir())
    for name, words in {
        "evil.pth": "holds no state dict that can be read without running code .Weights only load failed",
        "short.pth": "holds no ",
        "seven.pth": "has kernels of 5 convolutions and 2 other layers; AlexNet has five convolutions and three dense",
        "grouped.pth": r"conv4: the kernel, as .* is float32 \(24, 12, 3, 3\); \(24, 24, 3, 3\) is expected",
        "expanded.pth": "claims 8,5.* numbers; 536,870,911 are read at most",
        "other.h5": "is an HDF5 file, but not the weights of tf2cv's",
        "page.pth": "is a page of the web; a .pth, .h5, .onnx, .caffemodel or .npy of weights is read",
        "pointer.onnx": "is a pointer of Git LFS",
        "broken.onnx": "holds no ONNX graph",
    }.items():
        with pytest.raises(RunError, match=words) as raised:
            public_weights.read(name)
        assert str(raised.value).startswith(f"{name}: ") and "\n" not in str(raised.value)
    assert sorted(os.listdir()) == before
    for package, name in (("torch", "good.pth"), ("onnx", "broken.onnx")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match=rf"{name}: is read with {package}, which is missing: pip install 'ke"):
            public_weights.read(name)


@pytest.mark.parametrize("variant", ["caffe224", "imgclsmob", "owt2014"])
def test_a_variant_trains_exports_and_is_trained_further(variant, small_images, tmp_path):
    removed = ",".join(REMOVED)
    flags = ["--dataset=folder", f"--data_dir={small_images}", "--width=0.0625", "--batch_size=9", "--epochs=1"]
    flags += [f"--variant={variant}", "--towers=1", f"--removed_layers={removed}", "--resize=stretch"]
    flags += ["--groups=1"] if VARIANTS[variant].one_tower else []
    run = tmp_path / "run"
    assert call(train, *flags, f"--model_dir={run}")[0] == 0
    path = tmp_path / "wide.jpg"
    path.write_bytes(encoded(natural(400, 280, 1)))
    assert np.any(load_image(path, run=run) != load_image(path))
    answer = tf.saved_model.load(str(run / "export" / "1")).signatures["serving_default"](
        image_bytes=tf.constant([path.read_bytes()])
    )
    model, inputs = AlexNet(weights=run), preprocess_input(load_image(path, run=run)[None], run=run)
    np.testing.assert_allclose(model(inputs), answer["probabilities"], rtol=1e-5)
    np.testing.assert_allclose(AlexNet(weights=run / "export" / "1")(inputs), model(inputs), rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    loaded.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(loaded.train_on_batch(inputs, np.array([1])))
    assert np.any(loaded(inputs) != model(inputs))


def test_a_variant_of_one_tower_says_so(small_images, tmp_path):
    flags = ("--dataset=folder", f"--data_dir={small_images}", f"--model_dir={tmp_path}/run", "--variant=owt2014")
    assert "--towers=2: must be 1, and groups 1, with variant=owt2014" in refusal(train, *flags)
    model = AlexNet(7, "owt2014", width=1 / 16)
    names = [layer.name for layer in model.layers]
    assert names.index("dropout6") < names.index("fc6") < names.index("dropout7") < names.index("fc7")
    assert not any(name.startswith(("norm", "join")) for name in names)
    with pytest.raises(ValueError, match="topology must be alexnet with variant=owt2014"):
        AlexNet(variant="owt2014", topology="half")


def test_kernels_of_pytorch_start_within_their_fan_in():
    for name, array in weights.named(AlexNet(7, "imgclsmob", width=1 / 4, seed=1)).items():
        limit = 1 / np.sqrt(np.prod(array.shape[:-1])) if name.endswith("kernel") else 0
        assert 0.99 * limit <= np.abs(array).max() <= limit
        assert array.std() == pytest.approx(limit / np.sqrt(3), rel=5 / np.sqrt(2 * array.size))
