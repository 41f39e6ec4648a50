"""Two classes in one photo: where each of them is, as in the paper's cat and dog.

python examples/cat_and_dog.py PHOTO
python examples/cat_and_dog.py astronaut.jpg --classes "space shuttle" "crash helmet"
"""

from __future__ import annotations

import argparse

from scene_figures import two_classes

from multicam.tasks import classification

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("photo")
parser.add_argument("--classes", nargs=2, default=["tiger cat", "boxer"], metavar=("ONE", "OTHER"))
parser.add_argument("--model", help="torchvision:NAME, timm:NAME, hf:NAME; else the bundled one")
parser.add_argument("--out", default="two_classes.png")
options = parser.parse_args()

task = classification.load(options.model)
pair = [task.index(name) for name in options.classes]
two_classes(task, options.photo, pair).savefig(options.out)
print(f"{' and '.join(options.classes)}: {options.out}")
