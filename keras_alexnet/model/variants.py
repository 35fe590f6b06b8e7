"""The networks as tables, and which of their settings go together; without TensorFlow."""

import dataclasses
import math
import numbers

from keras_alexnet.errors import ArgumentError
from keras_alexnet.flags import flag

_IMAGENET_STD = (0.229, 0.224, 0.225)  # of RGB pixels in [0, 1], as torchvision's models are trained with


@dataclasses.dataclass(frozen=True)
class Variant:
    """Where the descriptions of the network differ."""

    input_size: int  # rows and columns of a crop
    padding: tuple[int, int]  # rows and columns of zeros before and behind it
    k: float | None  # of the normalization, section 3.3; None: the network has none
    alpha: float
    whole_layer: bool  # normalization across the towers
    late_relu1: bool  # conv1 is normalized and pooled before its ReLU
    in_map: bool  # a second normalization behind norm2, within each map
    middle_stddev: float  # start of the kernels of conv3, conv4 and conv5
    hidden_stddev: float  # start of the kernels of fc6 and fc7
    bias: float  # start of the biases of conv2, conv4, conv5, fc6 and fc7
    crop_positions: int  # where a random crop may begin, per direction
    pca_scale: str = "eigenvalue"  # of the color noise, section 4.1; or "stddev", by standard deviations
    # published: behind fc6 and fc7, halved outside training (section 4.2). inverted: the same place, doubled in
    # training. inverted_inputs: doubled in training, on the inputs of fc6 and fc7.
    dropout: str = "published"
    floor_pools: tuple[str, ...] = ()  # without a last window that reaches over the edge, which all other pools have
    one_tower: bool = False  # has neither towers nor groups
    fan_in: bool = False  # kernels start uniform within 1 / sqrt(fan-in), as PyTorch's own, and not normal
    pixel_scale: tuple[float, ...] | None = None  # what red, green and blue are multiplied by, after the mean is gone
    units: dict = dataclasses.field(default_factory=dict)  # of layers that have others than UNITS


_PYTORCH = {
    "one_tower": True,
    "fan_in": True,  # from inputs of deviation 1 the paper's N(0, 0.01) does not leave the plateau
    "pixel_scale": tuple(1 / (255 * deviation) for deviation in _IMAGENET_STD),
}
# - paper: section 3.3's constants; section 5's start: N(0, 0.01), biases 1. Its factor of 2048 (section 4.1) is 32
#   positions in both directions, twice. Normalization stays within a tower: the paper's sum runs over all kernels of a
#   layer, but its two halves never meet on one GPU before layer 3.
# - release2012: `layers-145.cfg` and `layer-params-145.cfg` of the authors' code.
# - caffe: `train_val.prototxt` of bvlc_alexnet.
# - caffe224: the same weights as the ONNX model zoo's bvlcalexnet uses them: input 224, and maps of 54, 26, 12 and 6.
# - imgclsmob: `alexnet` of pytorchcv (osmr/imgclsmob), whose response normalization divides alpha by its size of 5.
# - owt2014: "One weird trick for parallelizing convolutional neural networks" (Krizhevsky 2014, arXiv 1404.5997), as
#   torchvision has it. `alexnetb` of pytorchcv is the same function outside training.
VARIANTS = {
    "paper": Variant(224, (0, 3), 2.0, 1e-4, False, False, False, 0.01, 0.01, 1.0, 32),
    "release2012": Variant(224, (0, 3), 2.0, 2e-5, False, True, True, 0.03, 0.01, 1.0, 33, "stddev"),
    "caffe": Variant(227, (0, 0), 1.0, 2e-5, True, False, False, 0.01, 0.005, 0.1, 30),
    "caffe224": Variant(
        224, (0, 0), 1.0, 2e-5, True, False, False, 0.01, 0.005, 0.1, 33, floor_pools=("pool1", "pool2")
    ),
    "imgclsmob": Variant(
        224, (0, 0), 2.0, 2e-5, False, False, False, 0.01, 0.01, 0.0, 33, dropout="inverted", **_PYTORCH
    ),
    "owt2014": Variant(
        *(224, (2, 2), None, 0.0, False, False, False, 0.01, 0.01, 0.0, 33),
        **{"dropout": "inverted_inputs", "units": {"conv1": 64, "conv2": 192, "conv4": 256}, **_PYTORCH},
    ),
}

# The networks that the authors trained beside network 145, by what differs from it (`layers-*.cfg` of the release).
TOPOLOGIES = {
    "alexnet": {},
    # 145-half: one tower of the two. "The one-GPU net actually has the same number of kernels as the two-GPU net in the
    # final convolutional layer", and its dense layers whole (section 3.2, footnote).
    "half": {"conv1": 48, "conv2": 128, "conv3": 192, "conv4": 192},
    # 150: no links between the towers below fc8; wider conv2 and fc6 make up for the parameters of the links.
    "separate": {"conv2": 320, "fc6": 8192},
    # 146: a sixth convolution over the last pooling (section 6, "1 CNN*").
    "conv6": {},
    # Not the authors': what Zeiler and Fergus changed against dead filters and aliasing, see `first_layers`.
    "zf": {},
}
REMOVABLE = ("conv2", "conv3", "conv4", "conv5", "fc7")
# Those with weights; conv6 is of the network of Table 2 only.
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7", "fc8")
UNITS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256, "conv6": 256, "fc6": 4096, "fc7": 4096}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a network computes, whatever its classes; the defaults are the paper's, and each is a flag of training.

    `towers` is a form only: two towers compute what one stack with two groups computes, from the same weights.
    """

    variant: str = flag(
        "paper", "As published, as in the release, or as in Caffe.", choices=tuple(VARIANTS), first=True
    )
    towers: int = flag(2, "2: two stacks of layers, as in the paper; 1: a single stack.")
    groups: int = flag(2, "With --towers=1: groups of conv2, conv4 and conv5.")
    topology: str = flag(
        "alexnet",
        "half: half the kernels in conv1 to conv4, with --towers=1 --groups=1 (section 3.2). separate: towers joined "
        "at fc8 only. conv6: a sixth convolutional layer after pool5 (section 6). zf: conv1 with 7x7 kernels and "
        "stride 2, as has conv2 (Zeiler and Fergus 2013).",
        choices=tuple(TOPOLOGIES),
    )
    removed_layers: tuple[str, ...] = flag(
        (), "Layers to leave out, of conv2 to conv5 and fc7, such as conv3,conv4 (section 7)."
    )
    width: float = flag(1.0, "Multiplies the number of units of every hidden layer.", above=0.0, high=4.0)
    activation: str = flag("relu", "Nonlinearity of section 3.1.", choices=("relu", "tanh"))
    local_response_normalization: bool = flag(True, "Section 3.3; off: no normalization layers.")
    overlapping_pooling: bool = flag(True, "Section 3.4: 3x3 windows, stride 2; off: 2x2 windows, stride 2.")
    dropout: float = flag(0.5, "Section 4.2: probability that a hidden unit is set to zero.", low=0.0, below=1.0)
    inverted_dropout: bool = flag(False, "Scale up in training what dropout keeps, as Keras does, not down in tests.")

    def require(self, name, is_met, problem):
        """Raises ArgumentError for a field unless it `is_met`."""
        if not is_met:
            value = getattr(self, name)
            raise ArgumentError(name, ",".join(value) if name == "removed_layers" else value, problem)

    def __post_init__(self):
        """Raises ArgumentError unless there is such a network."""
        require, form = self.require, f"towers={self.towers}, groups={self.groups}, variant={self.variant}"
        require("variant", self.variant in VARIANTS, f"must be one of {', '.join(VARIANTS)}")
        require("topology", self.topology in TOPOLOGIES, f"must be one of {', '.join(TOPOLOGIES)}")
        require("towers", self.towers in (1, 2), "must be 1 or 2")
        require("groups", self.groups in (1, 2), "must be 1 or 2")
        v = VARIANTS[self.variant]
        is_possible = not v.one_tower or (self.towers, self.groups) == (1, 1)
        require("towers", is_possible, f"must be 1, and groups 1, with variant={self.variant}, which is one tower")
        is_possible = not v.one_tower or self.topology == "alexnet"
        require("topology", is_possible, f"must be alexnet with variant={self.variant}")
        problem = "must be 2 with two towers; towers=1 is a network without groups"
        require("groups", self.groups >= self.towers, problem)
        is_possible = self.topology != "half" or (self.towers, self.groups) == (1, 1)
        require("topology", is_possible, f"is one tower without groups, not {form}")
        is_possible = self.topology != "separate" or (self.towers == 2 and not v.whole_layer)
        require("topology", is_possible, f"is two towers, each normalized by itself, not {form}")
        require("removed_layers", set(self.removed_layers) <= set(REMOVABLE), f"must be of {', '.join(REMOVABLE)}")
        is_number = isinstance(self.width, numbers.Real) and 0 < self.width < math.inf
        units = [round(each * self.width) for each in {**UNITS, **v.units}.values()] if is_number else [0]
        is_even = all(each >= 2 and each % 2 == 0 for each in units)
        require("width", is_even, "must give two towers the same units in every layer, as multiples of 0.0625 do")
        is_number = isinstance(self.dropout, numbers.Real)
        require("dropout", is_number and 0 <= self.dropout < 1, "must be at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class Network(Settings):
    """A network with its classes."""

    num_classes: int = 1000

    def __post_init__(self):
        super().__post_init__()
        is_count = isinstance(self.num_classes, numbers.Integral) and self.num_classes >= 1
        self.require("num_classes", is_count, "must be a whole number, at least 1")


def first_layers(network):
    """(rows of a conv1 kernel, stride of conv1, stride of conv2, rows of the smallest image with padding), int.

    With the topology "zf" those of Zeiler and Fergus 2013 (arXiv 1311.2901, Figure 3): their maps of 110, 55, 26 and 13
    rows are 111, 55, 26 and 13 here, where an image has 227 rows with its padding.
    """
    # The smallest: 8 rows of conv1 and then 4, 2 and 1 of the pools; 22, 11, 4 (of conv2), 2 and 1.
    return (7, 2, 2, 49) if network.topology == "zf" else (11, 4, 1, 39)


def settings_of(config):
    """The fields of Settings that an instance of a subclass has: dict of name -> value."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(Settings)}


def combined(arguments, stored, source):
    """The Network of arguments and, where they are None, of the settings of stored weights.

    Both are dict of field name -> value; other names do not count. Raises ArgumentError where an argument contradicts
    the weights of `source`, a path, or where there is no such network.
    """
    names = [field.name for field in dataclasses.fields(Network) if arguments.get(field.name) is not None]
    given = {name: arguments[name] for name in names}
    if "removed_layers" in given:
        given["removed_layers"] = tuple(given["removed_layers"])
    for name in differing(given, stored):
        if name != "towers":
            problem = f"must be left out, or {stored[name]!r} as the weights of {source} were trained"
            raise ArgumentError(name, given[name], problem)
    if given.get("towers") == 2 and stored.get("groups") == 1:
        raise ArgumentError("towers", 2, f"must be left out, or 1: the weights of {source} are without groups")
    settings = {**stored, **given}
    variant = VARIANTS.get(settings.get("variant"))
    return Network(**({"towers": 1, "groups": 1} if variant and variant.one_tower else {}) | settings)


def differing(given, stored):
    """The names of settings, list of str, of which two dicts have different values."""

    def plain(value):  # an activation may be a function, and removed layers may be in any order
        return set(value) if isinstance(value, (tuple, list)) else getattr(value, "__name__", value)

    return [name for name, value in stored.items() if name in given and plain(given[name]) != plain(value)]
