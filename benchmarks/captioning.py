"""How good the bundled captioner's captions are: its words beside those of five people.

    pip install -e '.[bench]'
    python benchmarks/captioning.py --data PATH                   # the test split of Flickr8k
    python benchmarks/captioning.py --data PATH --split dev --beam 3 5 8 --length-power 0.5 0.7 1
    python benchmarks/captioning.py --data PATH --markdown        # the same, for the docs

PATH holds flickr8k/images and flickr8k/captions.json: captions, five for each file name,
and the official splits. The scores are those of pycocoevalcap: BLEU (of the whole split,
closest reference length), CIDEr (its CIDEr-D, document frequencies from the split's own
references) and ROUGE-L. No Java: the library's tokenizer needs it, so that captions and
references are tokenised alike here in Python: lower case, punctuation removed, split at
white space.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file
from tables import show
from torch import Tensor

from multicam.tasks import backbone
from multicam.tasks.beam import beam_search
from multicam.tasks.captioner import Captioner, Decoder, pretrained
from multicam.tasks.vocabulary import Vocabulary

Captions = dict[str, str]
"""By file name."""

DEFAULT_POWER = (beam_search.__kwdefaults__ or {})["length_power"]
COLUMNS = ["search", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr", "ROUGE-L", "words"]


class Search(NamedTuple):
    beam: int
    length_power: float

    def __str__(self) -> str:
        return "greedy" if self.beam == 1 else f"beam {self.beam}, length {self.length_power:g}"


def captioner(weights: Path | None) -> tuple[Captioner, Vocabulary]:
    """The bundled captioner, or one of another run of examples/train_captioner.py."""
    if weights is None:
        return pretrained()
    vocabulary = Vocabulary.from_file(weights / "captioner.vocabulary.json")
    model = Captioner(backbone.pretrained(), len(vocabulary)).eval()
    values = load_file(weights / "captioner.safetensors")
    model.decoder.load_state_dict({name: value.float() for name, value in values.items()})
    return model, vocabulary


def read(paths: Sequence[Path]) -> Tensor:
    photos = []
    for path in paths:
        with Image.open(path) as image:
            photos.append(backbone.squeeze(image.convert("RGB")))
    return torch.stack(photos)


def last_logits(decoder: Decoder, places: Tensor, tokens: Tensor) -> Tensor:
    """What `beam_search` reads of the logits, at a fraction of the cost of all."""
    return decoder.logits(decoder.states(places, tokens)[:, -1:])


@torch.inference_mode()
def write(
    model: Captioner,
    vocabulary: Vocabulary,
    paths: Sequence[Path],
    searches: Sequence[Search],
    batch: int,
) -> dict[Search, Captions]:
    """Caption photos; what the encoder sees in them is shared by all searches."""
    written: dict[Search, Captions] = {search: {} for search in searches}
    starts = range(0, len(paths), batch)
    for start in track(starts, "captions", console=Console(stderr=True)):
        some = paths[start : start + batch]
        places = model.encode(read(some))
        for search in searches:
            tokens = beam_search(
                partial(last_logits, model.decoder),
                places,
                start=vocabulary.start,
                end=vocabulary.end,
                forbidden=() if vocabulary.unknown is None else (vocabulary.unknown,),
                beam=search.beam,
                length_power=search.length_power,
            )
            said = map(vocabulary.spell, tokens)
            written[search].update(zip((path.name for path in some), said, strict=True))
    return written


def tokenised(caption: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", "", caption.lower()).split())


def scores(captions: Captions, references: Mapping[str, Sequence[str]]) -> list[float]:
    """Those in COLUMNS, and the mean number of words."""
    said = {name: [tokenised(caption)] for name, caption in captions.items()}
    known = {name: [tokenised(caption) for caption in references[name]] for name in captions}
    bleu, _ = Bleu(4).compute_score(known, said, verbose=0)
    cider, _ = Cider().compute_score(known, said)
    rouge, _ = Rouge().compute_score(known, said)
    words = sum(len(caption.split()) for (caption,) in said.values()) / len(said)
    return [*bleu, cider, rouge, words]


def cells(search: Search, values: Sequence[float]) -> list[str]:
    *shares, words = values
    return [str(search), *(f"{share:.3f}" for share in shares), f"{words:.1f}"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds flickr8k/")
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--beam", type=int, nargs="+", default=[5], help="beside greedy search")
    parser.add_argument("--length-power", type=float, nargs="+", default=[DEFAULT_POWER])
    parser.add_argument("--weights", type=Path, help="folder that a training wrote; else bundled")
    parser.add_argument("--samples", type=int, default=6, help="captions that are shown")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    folder = options.data / "flickr8k"
    about = json.loads((folder / "captions.json").read_text())
    names, references = about["splits"][options.split], about["captions"]
    model, vocabulary = captioner(options.weights)
    pairs = product(options.beam, options.length_power)
    searches = [
        Search(1, DEFAULT_POWER),
        *(Search(beam, power) for beam, power in pairs if beam > 1),
    ]
    paths = [folder / "images" / name for name in names]
    written = write(model, vocabulary, paths, searches, options.batch)
    show(
        f"Flickr8k, {options.split} split: {len(names)} photos",
        COLUMNS,
        [cells(search, scores(captions, references)) for search, captions in written.items()],
        markdown=options.markdown,
    )
    shown = names[:: max(1, len(names) // max(1, options.samples))][: options.samples]
    show(
        f"Captions ({searches[-1]}), and the first that a person wrote",
        ["photo", "captioner", "person"],
        [[name, written[searches[-1]][name], references[name][0]] for name in shown],
        markdown=options.markdown,
    )


if __name__ == "__main__":
    main()
