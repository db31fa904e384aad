"""What `make monailabel-test` does: a MONAI Label server serves our zips, its answers are checked.

Everything is computed from the embedded phantom, on loopback; nothing is fetched. `--pictures DIR`
writes the pictures of docs/slicer.md from the volumes that the server returned.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from ecosystem import monailabel_checks as checks
from ecosystem.monailabel_server import Answer, Client, install_app, running_server
from ecosystem.work import empty_work_folder
from tools.files import read_object
from tools.phantoms.chest_ct import chest_ct
from tools.phantoms.datalists import save_volume
from tools.phantoms.datasets import lesion_datalist

ROOT = Path(__file__).resolve().parents[1]
FINE_MM = (0.7, 0.7, 1.25)
# a part of the right lung, or the whole chest: voxels, and the centre in mm
FIELDS = {
    "part": ((180, 180, 100), (77.0, -22.0, 13.0)),
    "whole": ((480, 400, 200), (0.0, 0.0, 0.0)),
}
SITES_MM = ((77.0, -22.0, 13.0), (100.0, 14.0, 31.0))
DIAMETER_MM = 16.0
TEXTURES = ("ground_glass", "part_solid", "solid")
MODELS = ("lefusion_lidc", "hr_ldm")


@dataclass
class Report:
    """A row for each call: what it was, HTTP status, seconds, and what was wrong."""

    rows: list[tuple[str, int, float, list[str]]] = field(default_factory=list)

    def add(self, what: str, answer: Answer, check: Callable[[], Sequence[str]]) -> None:
        """Check an answer with status 200 and print its row."""
        faults = [f"HTTP {answer.status}"] if answer.status != 200 else []
        if not faults:
            try:
                faults = list(check())
            except (ValueError, KeyError) as error:
                faults = [str(error)]
        self.rows.append((what, answer.status, answer.seconds, faults))
        print(f"{what:58} {answer.status:4} {answer.seconds:7.1f} s  {'; '.join(faults) or 'ok'}")

    @property
    def failed(self) -> bool:
        """Whether anything was wrong."""
        return any(faults for *_, faults in self.rows)


class Trial:
    """The calls of one session.

    Args:
        client: of a running server.
        work: folder for the volumes.
        report: where the rows go.
        extent: key of ``FIELDS``.
    """

    def __init__(self, client: Client, work: Path, report: Report, extent: str) -> None:
        self.client, self.work, self.report = client, work, report
        shape, centre = FIELDS[extent]
        phantom = chest_ct(shape, FINE_MM, 0, centre)
        self.path = work / "chest.nii.gz"
        save_volume(self.path, phantom.image, phantom.affine)
        self.scan, self.lung = nib.load(self.path), phantom.lung_mask > 0
        save_volume(work / "lung.nii.gz", self.lung.astype(np.uint8), phantom.affine)

    def shapes(self) -> None:
        """Masks, by a point in mm, and by a click as 3D Slicer sends it."""
        first, second = SITES_MM
        asked = {"centre_mm": first, "diameter_mm": DIAMETER_MM, "seed": 1}
        mask = self._mask("mask_point", "diffmask", asked, first)
        self._mask("mask_again", "diffmask", asked, first, lambda new: differ(new, mask, False))
        other = asked | {"seed": 2}
        self._mask("mask_seed", "diffmask", other, first, lambda new: differ(new, mask, True))
        click = np.rint(apply_affine(np.linalg.inv(self.scan.affine), second)).astype(int)
        sent = {"label": "lesion", "foreground": [[1, 1, 1], click.tolist()], "background": []}
        # a form shows an empty field where there is no centre, and sends it back as text
        sent |= {"centre_mm": "", "diameter_mm": 12.0, "seed": 3}
        there = apply_affine(self.scan.affine, click)
        self._mask("mask_click", "diffmask_deepgrow", sent, there)
        organ = {"boundary": str(self.work / "lung.nii.gz"), "diameter_mm": 30.0}
        answer = self.client.infer("diffmask", organ, file=self.path)
        self.report.add("infer/diffmask: in the lung", answer, lambda: self._in_lung(answer))
        both = np.asarray(self._volume("mask_point").dataobj) > 0
        both = both | (np.asarray(self._volume("mask_click").dataobj) > 0)
        save_volume(self.work / "mask_both.nii.gz", both.astype(np.uint8), self.scan.affine)

    def _in_lung(self, answer: Answer) -> list[str]:
        mask = np.asarray(self._keep("mask_lung", answer).dataobj) > 0
        return [] if mask.any() and not mask[~self.lung].any() else ["mask must be in the lung"]

    def _mask(
        self,
        name: str,
        model: str,
        params: dict,
        centre_mm: Sequence[float],
        also: Callable[[np.ndarray], list[str]] = lambda _: [],
    ) -> np.ndarray | None:
        answer = self.client.infer(model, params, file=self.path)
        found: list[np.ndarray] = []

        def check() -> list[str]:
            mask = self._keep(name, answer)
            found.append(np.asarray(mask.dataobj))
            faults = checks.same_grid(mask, self.scan)
            faults += checks.in_sphere(mask, centre_mm, params["diameter_mm"])
            return faults + also(found[0])

        self.report.add(f"infer/{model}: {name}", answer, check)
        return found[0] if found else None

    def textures(self, model: str) -> None:
        """Nodules of each texture in both masks, and one with another seed."""
        lesion = np.asarray(self._volume("mask_both").dataobj) > 0
        means: dict[str, float] = {}
        for texture in TEXTURES:
            image = self._image(model, texture, 0, lesion)
            means[texture] = float(image[lesion].mean()) if image is not None else np.nan
            if texture == TEXTURES[-1]:
                row = self.report.rows[-1]
                faults = [*row[3], *checks.ordered(means)]
                self.report.rows[-1] = (*row[:3], faults)
                if len(faults) > len(row[3]):
                    print(f"{'':4}FAILED: {faults[-1]}")
        print(f"{'':4}mean HU " + ", ".join(f"{k} {v:.0f}" for k, v in means.items()))
        first = np.asarray(self._volume(f"{model}_solid_0").dataobj)
        self._image(model, "solid", 7, lesion, lambda new: differ(new, first, True))

    def _image(
        self,
        model: str,
        texture: str,
        seed: int,
        lesion: np.ndarray,
        also: Callable[[np.ndarray], list[str]] = lambda _: [],
    ) -> np.ndarray | None:
        name, params = f"{model}_{texture}_{seed}", {"texture": texture, "seed": seed}
        label = self.work / "mask_both.nii.gz"
        answer = self.client.infer(model, params, file=self.path, label=label)
        found: list[np.ndarray] = []

        def check() -> list[str]:
            image = self._keep(name, answer)
            found.append(np.asarray(image.dataobj))
            return self._changed(model, image, lesion) + also(found[0])

        self.report.add(f"infer/{model}: {texture}, seed {seed}", answer, check)
        return found[0] if found else None

    def _changed(self, model: str, image: nib.Nifti1Image, lesion: np.ndarray) -> list[str]:
        """Return what is wrong beyond the margin of a bundle."""
        config = ROOT / "bundles" / model / "configs" / "inference.json"
        margin = read_object(config, "bundle")["margin_mm"]
        return checks.changed_only_near(image, self.scan, lesion, margin)

    def training(self, epochs: int) -> None:
        """Cases to the datastore, one training of the texture model, its weights used."""
        for case in lesion_datalist("", "training")[:3]:
            image, label = Path(case["image"]), Path(case["label"])
            name = image.name.removesuffix(".nii.gz")
            for what, answer in zip(
                ("image", "label"), self.client.add(name, image, label), strict=True
            ):
                self.report.add(f"datastore: {what} {name}", answer, list)
        params = {"max_epochs": epochs, "multi_gpu": False, "val_split": 0.34, "pretrained": True}
        answer = self.client.train("lefusion_lidc", params | {"device": "cpu", "tracking": "None"})
        models = self.work / "apps" / "monaibundle" / "model" / "lefusion_lidc"
        trained = models / "output" / "models" / "model.pt"

        def check() -> list[str]:
            return [] if trained.is_file() else [f"training must write {trained}, got none"]

        self.report.add(f"train/lefusion_lidc: {epochs} epoch of 2 cases", answer, check)
        if not trained.is_file():
            return
        shutil.copyfile(trained, models / "models" / "model_trained.pt")
        label = self.work / "mask_both.nii.gz"
        lesion = np.asarray(nib.load(label).dataobj) > 0
        params = {"model_filename": "model_trained.pt", "num_inference_steps": 10}
        after = self.client.infer("lefusion_lidc", params, file=self.path, label=label)
        self.report.add(
            "infer/lefusion_lidc: the weights just trained",
            after,
            lambda: self._changed("lefusion_lidc", self._keep("trained", after), lesion),
        )

    def _keep(self, name: str, answer: Answer) -> nib.Nifti1Image:
        """Return the volume of an answer, kept as a file."""
        volume = checks.read_volume(answer)
        (self.work / f"{name}.nii.gz").write_bytes(answer)
        return volume

    def _volume(self, name: str) -> nib.Nifti1Image:
        return nib.load(self.work / f"{name}.nii.gz")


def differ(new: np.ndarray, old: np.ndarray | None, wanted: bool) -> list[str]:
    """Return a fault if two answers are equal and should not be, or the other way round."""
    if old is None or np.array_equal(new, old) != wanted:
        return []
    return ["another seed must give another answer" if wanted else "the same seed must repeat it"]


def main() -> int:
    """Serve, call, check, print; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--environment", default=".venv-monailabel", help="folder of MONAI Label's Python"
    )
    parser.add_argument(
        "--work", default="out/monailabel-test", help="folder to write, emptied first"
    )
    parser.add_argument("--extent", choices=FIELDS, default="part", help="of the phantom scan")
    parser.add_argument("--epochs", type=int, default=1, help="of the training; 0: none")
    parser.add_argument("--pictures", help="folder for the pictures of docs/slicer.md")
    arguments = parser.parse_args()
    work, environment = Path(arguments.work).absolute(), Path(arguments.environment)
    empty_work_folder(work)
    app = install_app(work, ROOT / "bundles", environment)
    report, log = Report(), work / "server.log"
    with running_server(app, work / "studies", environment, log) as client:
        info = client.get("/info/")
        report.add("info", info, lambda: checks.options_missing(info))
        trial = Trial(client, work, report, arguments.extent)
        trial.shapes()
        for model in MODELS:
            trial.textures(model)
        if arguments.epochs:
            trial.training(arguments.epochs)
    if arguments.pictures:
        from ecosystem.slicer_pictures import draw

        draw(work, Path(arguments.pictures), SITES_MM)
    verdict = f"FAILED, see {log}" if report.failed else "all as asked"
    print(f"{len(report.rows)} calls, {verdict}")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
