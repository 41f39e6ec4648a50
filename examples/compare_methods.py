"""One class of one photo by many methods, side by side in one picture.

python examples/compare_methods.py
python examples/compare_methods.py --slow    # iscam and sscam too, 20 minutes
python examples/compare_methods.py dog.jpg --target boxer --methods gradcam layercam rise
"""

import argparse
from dataclasses import replace
from importlib.resources import files
from time import perf_counter

import torch

from multicam import METHODS
from multicam.methods import takes_many_passes, with_progress
from multicam.tasks import classification

SLOW = ("iscam", "sscam")  # Score-CAM, 10 and 35 times over

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
astronaut = str(files("multicam") / "photos" / "astronaut.jpg")
parser.add_argument("photo", nargs="?", default=astronaut)
parser.add_argument("--target", default="space shuttle", help="the class to explain")
parser.add_argument("--methods", nargs="+", choices=METHODS, help="else all quick ones")
parser.add_argument("--slow", action="store_true", help=f"all: {' and '.join(SLOW)} too")
parser.add_argument("--model", help="torchvision:NAME, timm:NAME, hf:NAME; else the bundled one")
parser.add_argument("--layer", help="its feature map; else the last one")
parser.add_argument("--style", default="heat", choices=["heat", "signed", "spotlight"])
parser.add_argument("--out", default="methods.png")
options = parser.parse_args()
names = options.methods or [one for one in METHODS if options.slow or one not in SLOW]

task = classification.load(options.model)
first = task.explain(options.photo, options.target, layer=options.layer)
maps, notes = [], []
for name in names:
    start = perf_counter()
    method = with_progress(name, name) if takes_many_passes(name) else name
    found = task.explain(options.photo, options.target, layer=options.layer, method=method)
    notes.append(f"{perf_counter() - start:.1f} s")
    maps.append(found.resized((224, 224)))  # their grids differ

together = replace(
    first,
    maps=torch.cat(maps, dim=1),
    scores=first.scores.expand(-1, len(maps)),
    labels=(tuple(names),),
    notes=(tuple(notes),),
)
together.figure(style=options.style).savefig(options.out, dpi=100)
print(f"{options.target} by {len(maps)} methods, with the seconds of each: {options.out}")
