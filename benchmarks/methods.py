"""What each method costs: multicam and the peers that have it, side by side in one run.

    pip install -e '.[bench]'
    python benchmarks/methods.py                                  # methods of one or few passes
    python benchmarks/methods.py --captioner                      # the same, all words of a caption
    python benchmarks/methods.py --methods ablationcam --batches 1          # minutes for grad-cam
    python benchmarks/methods.py --methods scorecam --batches 1 --only time
    python benchmarks/methods.py --markdown                       # for docs/performance.md

ResNet-50 with random weights, images of 224 x 224, the logit of one class, CPU; with
--captioner the bundled captioner and its 16 words, as in captioning_speed.py. Times are
taken as in sidebyside.py, and a library whose first call takes longer than --limit is not
called again. Maps must agree but for those of `OTHER_MAPS`, where docs/methods.md says why.
"Peak" is by how much one call raises the resident memory of a fresh process. A library
that fails, as where memory ends, is told so.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from itertools import product
from statistics import median

import torch
from memory import growth, in_a_fresh_process, mebibytes
from method_cases import (
    MANY_PASSES,
    OTHER_MAPS,
    PEERS,
    SHARED,
    Case,
    OnCaptioner,
    OnResNet,
    highest_class,
)
from sidebyside import HEAPS, Seconds, take_times, take_times_together, times_of
from tables import show

from multicam import __version__


def cases(options: argparse.Namespace) -> Iterator[Case]:
    if options.captioner:
        yield from (OnCaptioner(method) for method in options.methods if method != "cam")
        return
    classes = {batch: in_a_fresh_process(highest_class, batch) for batch in options.batches}
    for method, layer, batch in product(options.methods, options.layers, options.batches):
        if method != "cam" or layer == "layer4":  # CAM is of the layer that is pooled
            yield OnResNet(method, layer, batch, classes[batch])


def peers_of(case: Case, options: argparse.Namespace) -> list[str]:
    return [name for name in options.peers if case.possible(name)]


# The tables


def time_row(case: Case, options: argparse.Namespace) -> list[str]:
    peers = peers_of(case, options)
    take = (
        take_times_together if options.together else partial(take_times, once_above=options.limit)
    )
    taken = take(
        {name: partial(case.make, name) for name in ["forward", "multicam", *peers]},
        options.rounds,
        options.threads,
        differ=[name for name in peers if case.method in OTHER_MAPS[name]],
        heap=options.heap,
        processes=options.processes,
    )
    cells = [time_cell(name, taken) for name in options.peers]
    return [
        *case.cells,
        *(f"{median(taken[name]):.3f} s" for name in ("forward", "multicam")),
        *cells,
    ]


def time_cell(name: str, taken: Seconds) -> str:
    if name not in taken:
        return ""
    own, ours = taken[name], taken["multicam"]
    if not own:
        return "failed"
    few = f", {len(own)} calls" if len(own) < len(ours) else ""
    return f"{times_of(own, ours):.2f} ({median(own):.3f} s{few})"


def memory_row(case: Case, options: argparse.Namespace) -> list[str]:
    peers = peers_of(case, options)
    cells = [
        peak(case, name, options.threads) if name in ("multicam", *peers) else ""
        for name in ["multicam", *options.peers]
    ]
    return [*case.cells, *cells]


def peak(case: Case, library: str, threads: int) -> str:
    try:
        return mebibytes(in_a_fresh_process(measure, case, library, threads))
    except (RuntimeError, MemoryError) as error:
        print(f"{library}, {case}: {error}", file=sys.stderr)
        return "failed"


def measure(case: Case, library: str, threads: int) -> int:
    torch.set_num_threads(threads)
    return growth(case.make(library))


def announced(row: Sequence[str]) -> Sequence[str]:
    """The row, printed at once: the table is complete only after minutes."""
    print(" | ".join(row), file=sys.stderr, flush=True)
    return row


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    quick = [name for name in SHARED if name not in MANY_PASSES]
    parser.add_argument("--methods", nargs="+", choices=SHARED, default=quick)
    parser.add_argument("--layers", nargs="+", default=["layer4", "layer2"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--captioner", action="store_true", help="the words of a caption instead")
    parser.add_argument("--rounds", type=int, default=9, help="calls of each fast library")
    parser.add_argument("--processes", type=int, default=1, help="of each library, for the rounds")
    parser.add_argument(
        "--heap", choices=HEAPS, default="kept", help="kept by glibc, or as it comes"
    )
    parser.add_argument(
        "--together", action="store_true", help="all libraries in each process, and no --limit"
    )
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of a call made once")
    parser.add_argument("--only", choices=["time", "memory"], help="one of the two tables")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    os.environ["TQDM_DISABLE"] = "1"  # the progress bars of grad-cam
    torch.set_num_threads(options.threads)
    chosen = list(cases(options))
    peers = [f"{name} {version(name)}" for name in options.peers]
    setting = f"torch {torch.__version__}, {options.threads} CPU threads"
    columns = ["method", "layer", "batch"]
    if options.only != "memory":
        rows = [announced(time_row(case, options)) for case in chosen]
        title = (
            f"Time of a call, and of the peers as a multiple of multicam's; median of "
            f"{options.rounds} rounds in {options.processes} processes"
            f"{', all together' if options.together else ''}, {options.heap} heap ({setting})"
        )
        columns_of_times = [*columns, "forward", f"multicam {__version__}", *peers]
        show(title, columns_of_times, rows, markdown=options.markdown)
    if options.only != "time":
        rows = [announced(memory_row(case, options)) for case in chosen]
        title = f"Growth of the resident memory at its peak ({setting})"
        show(title, [*columns, f"multicam {__version__}", *peers], rows, markdown=options.markdown)


if __name__ == "__main__":
    main()
