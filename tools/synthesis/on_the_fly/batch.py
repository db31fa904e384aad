"""Lesions for all samples of a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.data import list_data_collate

from tools.synthesis.on_the_fly.lesions import SynthesizeLesiond

__all__ = ["LesionCollate"]


class LesionCollate:
    """A ``collate_fn`` that puts lesions into all samples of a batch at once.

    One call of the network then serves the batch. For loaders without worker processes, on the
    device of the training: ``DataLoader(dataset, 4, collate_fn=LesionCollate(synthesize, after))``.

    Args:
        synthesize: the transform; leave it out of the dataset's own transforms.
        then: what comes after it, for each sample: scaling of intensities, crops.
    """

    def __init__(self, synthesize: SynthesizeLesiond, then: Callable | None = None) -> None:
        self.synthesize, self.then = synthesize, then

    def __call__(self, samples: Sequence[Mapping[Hashable, Any]]) -> Any:
        """Return the batch."""
        made: list[Any] = list(self.synthesize.many(samples))
        return list_data_collate(made if self.then is None else [self.then(each) for each in made])
