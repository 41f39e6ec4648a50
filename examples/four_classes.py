"""Four photos, four classes of ImageNet: each photo, and where its class comes from.

python examples/four_classes.py
"""

from __future__ import annotations

import argparse
from importlib.resources import files

import numpy as np
from scene_figures import grid, legend, show

from multicam.tasks import classification

CLASSES = {
    "cat": "Egyptian cat",
    "coffee": "espresso",
    "rocket": "missile",
    "astronaut": "football helmet",
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--out", default="four_classes.png")
options = parser.parse_args()

task = classification.load()
found = [
    task.explain(str(files("multicam") / "photos" / f"{name}.jpg"), wanted)
    for name, wanted in CLASSES.items()
]
drawn, panels = grid(2, len(found), (3, 2), 2.4)
for (above, below), explanation in zip(panels.T, found, strict=True):
    (label,), (photo,) = explanation.labels[0], explanation.photos
    probability = task.probabilities(photo.image)[0, task.index(label)]
    print(f"{label}: probability {probability:.2f}")
    show(above, np.asarray(photo.image), label)
    show(below, explanation.overlay(), f"probability {probability:.0%}")
legend(drawn, panels, "jet", ("nothing", "most"), "speaks for the class")
drawn.savefig(options.out)
