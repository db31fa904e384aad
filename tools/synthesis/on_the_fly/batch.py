"""Lesions for all samples of a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.data import list_data_collate
from monai.data.utils import set_rnd
from monai.utils.misc import MAX_SEED
from torch.utils.data import get_worker_info

from tools.synthesis.on_the_fly.lesions import SynthesizeLesiond

__all__ = ["LesionCollate"]


class LesionCollate:
    """A ``collate_fn`` that puts lesions into all samples of a batch at once.

    One call of the network then serves the batch. For loaders without worker processes, on the
    device of the training: ``DataLoader(dataset, batch_size=4, collate_fn=LesionCollate(...))``.
    In worker processes each has a chance of its own.

    Args:
        synthesize: the transform; leave it out of the dataset's own transforms. None: no lesions.
        then: what comes after it, for each sample: scaling of intensities, crops.
    """

    def __init__(
        self, synthesize: SynthesizeLesiond | None = None, then: Callable | None = None
    ) -> None:
        self.synthesize, self.then = synthesize, then
        self._seed: int | None = None

    def __call__(self, samples: Sequence[Mapping[Hashable, Any]]) -> Any:
        """Return the batch."""
        worker = get_worker_info()
        if worker is not None and self._seed != worker.seed:  # MONAI seeds datasets only
            self._seed = worker.seed
            set_rnd(self, worker.seed % MAX_SEED)
        made: list[Any] = list(samples)
        if self.synthesize is not None:
            made = list(self.synthesize.many(samples))
        return list_data_collate(made if self.then is None else [self.then(each) for each in made])
