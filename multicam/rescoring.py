"""Scores of many variants of each sample, several in one pass where the model allows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from multicam.errors import InputError, TargetError
from multicam.rows import Mapped, by_variant, close, entries, keeps, magnitude, one_by_one
from multicam.sites import RunBatch, RunRows, Site
from multicam.targets import Scored, Target

Variants: TypeAlias = Callable[[int, Tensor], Tensor]
"""(sample, numbers of variants) -> those variants of the sample, one a row."""

Scoring: TypeAlias = Callable[[Variants, Tensor], Tensor]
"""(variants, their numbers) -> scores, (number, target, batch)."""

ALIVE = 4
"""Tensors of the largest size that are alive at a time, in the estimate of a pass's memory."""


@dataclass(frozen=True, eq=False)
class Rescoring:
    """Scores of variants.

    No way to run the model is trusted before it is tried: among other rows, the original of
    each sample must keep its row of the recorded output, and its scores. Where it does not,
    or an error is raised, the next way is tried, and in the end the whole model with a
    variant of each sample at a time.

    Args:
        site: where variants take the place of samples.
        output: of the model for the originals.
        targets: what is scored.
        scored: the scores of the originals, by target.
        largest: entries of the largest tensor in a pass of the batch.
        memory: bytes that the variants of one pass may take, by a rough estimate.
        chunk: variants in one pass; None bounds memory.
        progress: what a progress bar says; None shows none.
    """

    site: Site
    output: Any
    targets: Sequence[Target]
    scored: Sequence[Scored]
    largest: int
    memory: int
    chunk: int | None = None
    progress: str | None = None

    def __call__(self, count: int, variants: Variants) -> Float[Tensor, "count target batch"]:
        """The scores of `count` variants of each sample.

        Raises:
            InputError: the model does not give the same scores twice.
            TargetError: a score is not finite.
        """
        by_rows = self._by_rows()
        passes = torch.split(torch.arange(count), self._rows() if by_rows else 1)
        score = by_rows or self._by_batch()
        found = torch.cat([score(variants, numbers) for numbers in self._tracked(passes)])
        self._check_finite(found)
        return precise(found)

    def _by_rows(self) -> Scoring | None:
        """Many variants of a sample in one pass, unless rows disturb each other."""
        for run in self.site.row_runs:
            with suppress(Exception):
                outputs = [run(i, self._among_others(i)) for i in range(self.site.batch)]
                scores = self._scored(outputs, one_by_one)
                if self._undisturbed(outputs, scores):
                    return partial(self._scores_of_rows, run, self._mapped(outputs, scores))
        return None

    def _by_batch(self) -> Scoring:
        """A variant of each sample in one pass."""
        *others, last = self.site.batch_runs
        for run in others:
            with suppress(Exception):
                if self._repeats(run):
                    return partial(self._scores_of_batch, run)
        if not self._repeats(last):
            raise InputError(
                "the model gives other scores when it runs again on the same input; call "
                "model.eval(), or make what is random in it repeat itself"
            )
        return partial(self._scores_of_batch, last)

    def _scores_of_rows(
        self, run: RunRows, mapped: Mapped, variants: Variants, numbers: Tensor
    ) -> Float[Tensor, "number target batch"]:
        samples = range(self.site.batch)
        return self._scored([run(i, variants(i, numbers)) for i in samples], mapped)

    def _scores_of_batch(
        self, run: RunBatch, variants: Variants, numbers: Tensor
    ) -> Float[Tensor, "number target batch"]:
        samples = range(self.site.batch)
        changed = (
            torch.cat([variants(sample, number) for sample in samples])
            for number in torch.split(numbers, 1)
        )
        return torch.stack([self._scores_of(run(each)) for each in changed])

    def _among_others(self, sample: int) -> Tensor:
        """A sample's original, first and last, with zeros between; never a row for each sample."""
        original = self.site.original(sample)
        others = 2 if self.site.batch == 3 else 1
        return torch.cat([original, *[torch.zeros_like(original)] * others, original])

    def _undisturbed(self, outputs: Sequence[Any], scores: Tensor) -> bool:
        """Whether the originals in the first and the last row are what they are in the batch."""
        return all(
            self._same(scores[row]) and keeps(output, self.output, self.site.batch, sample, row)
            for row in (0, -1)
            for sample, output in enumerate(outputs)
        )

    def _mapped(self, outputs: Sequence[Any], scores: Tensor) -> Mapped:
        """`torch.vmap` where the targets can be taken over all rows at once."""
        with suppress(Exception):
            at_once = self._scored(outputs, torch.vmap)
            if close(at_once, scores, magnitude(self.output)):
                return torch.vmap
        return one_by_one

    @property
    def scores(self) -> Float[Tensor, "target batch"]:
        """The scores of the originals."""
        return torch.stack([one.scores for one in self.scored])

    def _repeats(self, run: RunBatch) -> bool:
        originals = torch.cat([self.site.original(i) for i in range(self.site.batch)])
        return self._same(self._scores_of(run(originals)))

    def _same(self, scores: Tensor) -> bool:
        """Whether scores are those of the originals, up to the rounding of the output."""
        scale = max(magnitude(self.output), magnitude(self.scores))
        return close(scores, self.scores, scale)

    def _scored(
        self, outputs: Sequence[Any], mapped: Mapped
    ) -> Float[Tensor, "number target batch"]:
        """The scores of variants, of which each sample has as many rows."""
        return by_variant(self._scores_of, outputs, self.output, mapped)

    def _scores_of(self, output: Any) -> Float[Tensor, "target batch"]:
        return torch.stack([target(output).reshape(self.site.batch) for target in self.targets])

    def _rows(self) -> int:
        if self.chunk is not None:
            return self.chunk
        entries_of_row = ALIVE * self.largest // self.site.batch + entries(self.output)
        return max(1, self.memory // (entries_of_row * self.site.original(0).element_size()))

    def _tracked(self, passes: Sequence[Tensor]) -> Iterable[Tensor]:
        if self.progress is None:
            return passes
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        silent = not console.is_terminal
        return track(passes, self.progress, console=console, transient=True, disable=silent)

    def _check_finite(self, found: Float[Tensor, "count target batch"]) -> None:
        unfit = (~found.isfinite()).nonzero()
        if len(unfit) == 0:
            return
        number, target, sample = unfit[0].tolist()
        label, value = self.scored[target].labels[sample], found[number, target, sample]
        raise TargetError(
            f"the score {label!r} is {value} for change {number + 1} of {len(found)} of sample "
            f"{sample}; this method needs a score that is finite for changed inputs, too, such as "
            "a logit"
        )


def precise(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Values in a precision fit for sums and differences: float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
