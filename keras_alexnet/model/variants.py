"""The networks as tables, and which of their settings go together; without TensorFlow."""

import dataclasses
import math
import numbers

from keras_alexnet.errors import ArgumentError

_IMAGENET_STD = (0.229, 0.224, 0.225)  # of RGB pixels in [0, 1], as torchvision's models are trained with


@dataclasses.dataclass(frozen=True)
class Variant:
    """Where the descriptions of the network differ."""

    input_size: int  # rows and columns of a crop
    padding: tuple[int, int]  # rows and columns of zeros before and behind it
    k: float | None  # of the normalization, section 3.3; None: the network has none
    alpha: float
    whole_layer: bool  # normalization across the towers
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
_OWT_UNITS = {"conv1": 64, "conv2": 192, "conv4": 256}
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
    "paper": Variant(224, (0, 3), 2.0, 1e-4, False, 0.01, 0.01, 1.0, 32),
    "release2012": Variant(224, (0, 3), 2.0, 2e-5, False, 0.03, 0.01, 1.0, 33, "stddev"),
    "caffe": Variant(227, (0, 0), 1.0, 2e-5, True, 0.01, 0.005, 0.1, 30),
    "caffe224": Variant(224, (0, 0), 1.0, 2e-5, True, 0.01, 0.005, 0.1, 33, floor_pools=("pool1", "pool2")),
    "imgclsmob": Variant(224, (0, 0), 2.0, 2e-5, False, 0.01, 0.01, 0.0, 33, dropout="inverted", **_PYTORCH),
    "owt2014": Variant(
        224, (2, 2), None, 0.0, False, 0.01, 0.01, 0.0, 33, dropout="inverted_inputs", units=_OWT_UNITS, **_PYTORCH
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
}
REMOVABLE = ("conv2", "conv3", "conv4", "conv5", "fc7")
# Those with weights; conv6 is of the network of Table 2 only.
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7", "fc8")
_BOOLS = {"true": True, "false": False}
UNITS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256, "conv6": 256, "fc6": 4096, "fc7": 4096}


@dataclasses.dataclass(frozen=True)
class Network:
    """What a network computes; the defaults are the paper's. All but `num_classes` are flags of training, too.

    `towers` is a form only: two towers compute what one stack with two groups computes, from the same weights.
    """

    num_classes: int = 1000
    variant: str = "paper"
    towers: int = 2
    groups: int = 2
    topology: str = "alexnet"
    removed_layers: tuple[str, ...] = ()
    activation: str = "relu"
    local_response_normalization: bool = True
    overlapping_pooling: bool = True
    dropout: float = 0.5
    width: float = 1.0

    def __post_init__(self):
        if not isinstance(self.num_classes, numbers.Integral) or self.num_classes < 1:
            raise ArgumentError("num_classes", self.num_classes, "must be a whole number, at least 1")
        form = (self.towers, self.groups, self.topology)
        check(self.variant, *form, self.removed_layers, self.width, self.dropout)


def settings_of_flags(texts):
    """The settings of Network, without num_classes, among the flags of a run: dict of field name -> value.

    Flags are texts, as in a run's flags.cfg, and may be missing. Raises ValueError or KeyError of a wrong value.
    """
    convert = {tuple: lambda text: tuple(filter(None, text.split(","))), bool: lambda text: _BOOLS[text.lower()]}
    found = {}
    for field in dataclasses.fields(Network)[1:]:
        kind, text = type(field.default), texts.get(field.name)
        found[field.name] = field.default if text is None else convert.get(kind, kind)(text)
    return found


def combined(given, stored, source):
    """The Network of given arguments and, where none is given, of the settings of stored weights.

    Both are dict of field name -> value. Raises ArgumentError where there is no such network, or where an argument
    contradicts the weights of `source`.
    """
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


def check(variant, towers, groups, topology, removed_layers, width, dropout):
    """Raises ArgumentError unless there is such a network."""
    for name, value, allowed in (("variant", variant, VARIANTS), ("topology", topology, TOPOLOGIES)):
        if value not in allowed:
            raise ArgumentError(name, value, f"must be one of {', '.join(allowed)}")
    if towers not in (1, 2):
        raise ArgumentError("towers", towers, "must be 1 or 2")
    if groups not in (1, 2):
        raise ArgumentError("groups", groups, "must be 1 or 2")
    if VARIANTS[variant].one_tower and (towers, groups, topology) != (1, 1, "alexnet"):
        name, value = ("topology", topology) if (towers, groups) == (1, 1) else ("towers", towers)
        wanted = "alexnet" if name == "topology" else "1, and groups 1,"
        raise ArgumentError(name, value, f"must be {wanted} with variant={variant}, which is one tower")
    if towers == 2 and groups == 1:
        raise ArgumentError("groups", groups, "must be 2 with two towers; towers=1 is a network without groups")
    if topology == "half" and (towers, groups) != (1, 1):
        raise ArgumentError("topology", topology, f"is one tower without groups, not towers={towers}, groups={groups}")
    if topology == "separate" and (towers == 1 or VARIANTS[variant].whole_layer):
        problem = f"is two towers, each normalized by itself, not towers={towers}, variant={variant}"
        raise ArgumentError("topology", topology, problem)
    if any(name not in REMOVABLE for name in removed_layers):
        raise ArgumentError("removed_layers", ",".join(removed_layers), f"must be of {', '.join(REMOVABLE)}")
    is_number = isinstance(width, numbers.Real) and 0 < width < math.inf
    units = [round(each * width) for each in (96, 256, 384, 4096)] if is_number else [0]
    if any(each < 2 or each % 2 for each in units):
        raise ArgumentError("width", width, "must give each of two towers the same units in every layer")
    if not (isinstance(dropout, numbers.Real) and 0 <= dropout < 1):
        raise ArgumentError("dropout", dropout, "must be at least 0 and below 1")
