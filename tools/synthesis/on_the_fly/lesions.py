"""Synthetic lesions inside anybody's training loop: dictionary transforms of MONAI."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends
from torch.utils.data import get_worker_info

from tools.scans.scan import Scan
from tools.synthesis.arrays import open_synthesizer
from tools.synthesis.cases import Case
from tools.synthesis.lesion import SynthesisResult
from tools.synthesis.on_the_fly.tensors import as_nifti, as_scan, complete_masks, write_changes
from tools.synthesis.sizes import SizeMix, size_mix, whole_range
from tools.synthesis.synthesizer import Plan, Synthesizer

__all__ = ["SynthesizeLesiond"]

logger = logging.getLogger(__name__)

PATIENCE = 10  # samples from the first on, none of which can take a lesion
MEMORY = Path("sample")
Range = float | Sequence[float]


class SynthesizeLesiond(RandomizableTransform, MapTransform):
    """Put synthetic lesions into healthy samples while somebody's network is trained.

    It goes where intensities are still those of the scan (HU for CT): after ``LoadImaged`` and
    ``EnsureChannelFirstd``, before any scaling; on whole scans or on crops of at least the lesion
    and its surroundings. Voxels outside the lesion stay as they are; of a bundle in latent space
    (hr_ldm), those farther than its margin. The label gets the lesion; without a label one is made.

    The models are loaded once, when the transform is made. In worker processes they run on the
    processor: forked workers share the memory of the weights, spawned ones load their own. On a
    GPU, use ``num_workers=0`` and :class:`LesionCollate`, which
    samples a batch together.

    It is random: caching datasets of MONAI keep what comes before it and run it anew each epoch;
    ``set_random_state`` and ``set_determinism`` make it repeatable.

    Args:
        keys: the one image, ``(1, H, W, D)``, a MetaTensor: its affine says where and how large.
        label_key: label map of the same shape; 0 is background.
        organ_key: mask of where lesions may lie (of hearts: 1 cavity, 2 myocardium; None takes the
            label). None finds the lungs in each sample, which takes seconds: better once, by
            :class:`OrganMaskd`.
        bundle: name or folder of the texture model.
        prob: of a sample to get lesions, 0 to 1.
        count: lesions per sample, or smallest and largest number of them; one per heart.
        diameter_mm: smallest and largest diameter, or a list of such pairs; None: the bundle's.
        size_weights: weight of each pair of ``diameter_mm``; None: all the same.
        texture, shape, placement, organ_source: as of ``python -m tools synthesize``.
        lesion_value: of the lesion in the label, 1 to 255; voxels that have it already are kept
            away from. Of hearts 3 and 4 are used.
        steps: of the sampler; None: the bundle's. Fewer are faster and rougher.
        attempts: samples per lesion at most, where it misses its histogram.
        device: auto, cpu, cuda or cuda:N.
        one_by_one: give the network one lesion at a time, so that a seed gives the same lesion in
            any batch; None: only on a CPU, where batches gain nothing.
        record_key: where to put the records of the lesions made, as JSON text, ``[]`` for none;
            None: nowhere.
        if_impossible: skip leaves a sample in which the lesions do not fit as it is, and logs the
            first of them; raise ends the training. If none of the first ten can take a lesion, it
            is an error either way.
        allow_missing_keys: leave samples without the image as they are.
        only_healthy: leave samples whose label holds a lesion already as they are.
        method: what stands in place of the bundle's network, as of ``python -m tools synthesize``.
        library: data set of real lesions, for methods that copy them.

    Raises:
        FileNotFoundError: if the bundle does not exist.
        ValueError: naming the argument that breaks its rule.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from tools.phantoms.chest_ct import chest_ct
        >>> chest = chest_ct(seed=0)
        >>> affine = torch.as_tensor(chest.affine)
        >>> sample = {
        ...     "image": MetaTensor(torch.as_tensor(chest.image)[None].float(), affine=affine),
        ...     "lung": MetaTensor(torch.as_tensor(chest.lung_mask)[None], affine=affine),
        ... }
        >>> synthesize = SynthesizeLesiond(
        ...     organ_key="lung", prob=1.0, diameter_mm=(8, 10), shape="ellipsoid", steps=2,
        ...     device="cpu",
        ... )
        >>> made = synthesize.set_random_state(0)(sample)
        >>> changed = made["image"] != sample["image"]
        >>> bool(changed.any()), bool((changed & (made["label"] == 0)).any())
        (True, False)
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as every transform of MONAI states it

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        label_key: str = "label",
        organ_key: str | None = None,
        bundle: str = "lefusion_lidc",
        prob: float = 0.5,
        count: int | Sequence[int] = 1,
        diameter_mm: Range | Sequence[Sequence[float]] | None = None,
        size_weights: Sequence[float] | None = None,
        texture: str = "mixed",
        shape: str = "diffmask",
        placement: str | None = None,
        organ_source: str | None = None,
        lesion_value: int = 1,
        steps: int | None = None,
        attempts: int = 1,
        device: str = "auto",
        one_by_one: bool | None = None,
        record_key: str | None = None,
        if_impossible: str = "skip",
        allow_missing_keys: bool = False,
        only_healthy: bool = False,
        method: str | None = None,
        library: str | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if len(self.keys) != 1:
            raise ValueError(f"keys must be one image, got {list(self.keys)}")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must be from 0 to 1, got {prob}")
        # a label of 8 bits, as most are, would hold another number
        if isinstance(lesion_value, bool) or lesion_value not in range(1, 256):
            raise ValueError(
                f"lesion_value must be a whole number from 1 to 255, got {lesion_value!r}"
            )
        if if_impossible not in ("skip", "raise"):
            raise ValueError(f"if_impossible must be skip or raise, got {if_impossible!r}")
        self.label_key, self.organ_key, self.record_key = label_key, organ_key, record_key
        self.bundle, self.steps, self.lesion_value = bundle, steps, int(lesion_value)
        self.count = whole_range("count", count)
        self.sizes: SizeMix | None = size_mix(diameter_mm, size_weights)
        self.if_impossible, self.device, self.one_by_one = if_impossible, device, one_by_one
        self.only_healthy, self.method = only_healthy, method
        self.options = {
            "texture": texture,
            "diameter_mm": None if self.sizes is None else self.sizes[0][1:],
            "shape": shape,
            "placement": placement,
            "organ_source": organ_source,
            "attempts": attempts,
            "steps": steps,
            "library": library,
        }
        self.made = self.skipped = 0
        self._job: Synthesizer | None = None
        self._pid = 0
        self._job_here()

    def __getstate__(self) -> dict[str, Any]:
        # models do not travel between processes: each loads its own once
        return {**self.__dict__, "_job": None}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample, perhaps with lesions; the input is not changed."""
        return self.many([data])[0]

    def many(self, samples: Sequence[Mapping[Hashable, Any]]) -> list[dict[Hashable, Any]]:
        """Return the samples, some of them with lesions, which are all sampled together.

        Raises:
            ValueError: if an image is not 3-D with one channel, has no affine, or is not in the
                units of a scan; or if lesions do not fit and ``if_impossible`` is raise.
        """
        job = self._job_here()
        outputs = [dict(sample) for sample in samples]
        started: list[tuple[dict[Hashable, Any], Scan, Plan]] = []
        for output in outputs:
            self.randomize(None)
            rng = np.random.default_rng(self.R.randint(2**31, size=4))
            if self.keys[0] not in output and self.allow_missing_keys:
                continue
            complete_masks(output, self.keys[0], self.label_key, self.organ_key)
            if self.record_key is not None:
                output[self.record_key] = "[]"
            if self._do_transform and not (self.only_healthy and self._has_lesion(job, output)):
                in_hu = job.organ.modality == "CT"
                scan = as_scan(output[self.keys[0]], str(self.keys[0]), in_hu)
                plan = self._plan(job, scan, output, rng)
                if plan is not None:
                    started.append((output, scan, plan))
        results = job.finish([plan for *_, plan in started])
        for (output, scan, _), result in zip(started, results, strict=True):
            self._write(output, scan, result, job)
        return outputs

    def _job_here(self) -> Synthesizer:
        """Return the models of this process, loaded on first use."""
        worker = get_worker_info() is not None
        if self._job is not None and os.getpid() != self._pid:
            # a fork cannot use the GPU of its parent
            if self._job.texturer.device.type == "cuda":
                if self.device != "auto":
                    raise ValueError(
                        "device must be cpu or auto in forked worker processes (or take "
                        f"num_workers=0 and LesionCollate), got {self.device!r}"
                    )
                self._job = None
            self._pid = os.getpid()
        if self._job is None:
            device = "cpu" if worker and self.device == "auto" else self.device
            self._job, self._pid = self._load(device), os.getpid()
        return self._job

    def _load(self, device: str) -> Synthesizer:
        """Load the models; all arguments are checked on the way."""
        opened = open_synthesizer(self.bundle, device, options=self.options, method=self.method)
        job: Synthesizer = opened.get("synthesizer")
        on_cpu = job.texturer.device.type == "cpu"
        if not (on_cpu if self.one_by_one is None else self.one_by_one):
            job.texturer.batch_together()
        if job.one_scan_only:
            raise ValueError(f"shape must fit any sample, got {self.options['shape']!r}")
        return replace(job, sizes=self.sizes, count=self.count[1])

    def _has_lesion(self, job: Synthesizer, output: dict[Hashable, Any]) -> bool:
        values = [self.lesion_value]
        if job.organ.parts:
            values = [each.value for each in job.organ.classes]
        return bool(np.isin(np.asarray(output[self.label_key]), values).any())

    def _plan(
        self, job: Synthesizer, scan: Scan, output: dict[Hashable, Any], rng: np.random.Generator
    ) -> Plan | None:
        """Return the lesions of a sample; None if they do not fit and that is to be skipped."""
        label = output[self.label_key]
        organ = None if self.organ_key is None else output[self.organ_key]
        if job.organ.parts:  # its label map is the label of the sample
            masks = {"organ_mask": as_nifti(label if organ is None else organ, scan.affine)}
        else:
            masks = {"lesion_mask": as_nifti(label == self.lesion_value, scan.affine)}
            masks["organ_mask"] = None if organ is None else as_nifti(organ, scan.affine)
        if self.count[0] < self.count[1] or not job.organ.parts:
            count = int(rng.integers(self.count[0], self.count[1] + 1))
            job = replace(job, count=count)
        try:
            plan = job.plan(scan, Case(MEMORY.name, MEMORY, **masks), rng, "error")
        except ValueError as error:
            self._skip(error)
            return None
        self.made += 1
        return plan

    def _skip(self, error: ValueError) -> None:
        """Let a sample be that cannot take the lesions, unless that is the rule."""
        self.skipped += 1
        if self.if_impossible == "raise":
            raise error
        if self.skipped == 1:
            logger.warning("a sample stays without synthetic lesions: %s", error)
        if not self.made and self.skipped >= PATIENCE:
            raise ValueError(
                f"samples must have room for lesions, got none among the first {PATIENCE}; the "
                f"last: {error}"
            )

    def _write(
        self,
        output: dict[Hashable, Any],
        scan: Scan,
        result: SynthesisResult,
        job: Synthesizer,
    ) -> None:
        """Put the lesions into image and label of a sample."""
        key, label = self.keys[0], output[self.label_key]
        before = as_nifti(label, scan.affine).get_fdata(dtype=np.float32)
        lesions = result.label
        if not job.organ.parts:  # of one with parts it is its label map with the lesions in it
            lesions = np.where(result.label > 0, self.lesion_value, before)
        output[key] = write_changes(output[key], scan.stored, result.stored)
        output[self.label_key] = write_changes(label, before, lesions)
        if self.record_key is not None:
            output[self.record_key] = json.dumps([each.to_dict() for each in result.records])
