"""New images of the built-in shapes, one or more of each class, to try an exported model on.

python tools/draw_shapes.py --seed=7 --per_class=1 OUT      # OUT/blue_disk_0.jpg ...
"""

import argparse
from pathlib import Path

from keras_alexnet.cli import run_command
from keras_alexnet.data import shapes


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the images; made if it is missing")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other images")
    parser.add_argument("--per_class", type=int, default=1, help="images of each class")
    options = parser.parse_args(argv)
    if options.seed < 0 or options.per_class < 1:
        parser.error("--seed must be at least 0 and --per_class at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in shapes.CLASS_NAMES:
        for index in range(options.per_class):
            # Seeds between those of sets: the images of a set count up from its seed times 2^32.
            image = shapes.draw(name, 10**9 + options.seed * 10**4 + index)
            image.save(options.out / f"{name}_{index}.jpg", quality=90)
    print(f"{len(shapes.CLASS_NAMES) * options.per_class} images are in {options.out}")


if __name__ == "__main__":
    raise SystemExit(run_command("draw_shapes", main))
