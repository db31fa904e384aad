"""A study: cases x methods x measures, as ``configs/study.json`` of a bundle lists them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tools.bundle import choose_device, find_bundle, read_configs, resolved, sha256_file
from tools.files import new_file, write_json
from tools.shapes.diffmask import ShapeGenerator
from tools.studies import cases as readers
from tools.studies import reconstruction, shapes, textures
from tools.studies.cases import Case
from tools.studies.figure import write_figure
from tools.studies.methods import (
    MeanFill,
    Method,
    Run,
    TextureMethod,
    TextureModel,
    Variant,
    parse_variants,
    requests,
)
from tools.studies.statistics import Found, quartiles
from tools.studies.tables import page

SEED_STEP = 1009  # from sample to sample: more than there are cases
STUDY_FILE = "study.json"
SURROUNDINGS = {"healed": "healed", "real": "at real masks"}  # and how results name them


MEASURES: dict[str, Callable[..., Found]] = {
    "histograms": textures.histograms,
    "chance": textures.chance,
    "log_linear": textures.log_linear,
    "order": textures.order,
    "contrast": textures.contrast,
    "background": textures.background,
    "realism": textures.realism,
    "subtype": textures.subtype,
    "sphere": shapes.sphere,
    "sizes": shapes.sizes,
    "features": shapes.features,
    "mask_realism": shapes.mask_realism,
    "diversity": shapes.diversity,
    "steering": shapes.steering,
    "reconstruction": reconstruction.reconstruction,
}


READERS: dict[str, Callable[..., list[Case]]] = {
    "crops": readers.crop_cases,
    "windows": readers.window_cases,
    "subtypes": readers.subtype_cases,
    "slices": readers.slice_cases,
}


@dataclass
class Options:
    """The options of the command, which it describes."""

    bundle: str
    dataset_dir: str = ""
    steps: int | None = None
    limit: int | None = None
    samples: int = 1
    seed: int = 0
    discriminator: bool = False
    weights: str | None = None
    repaint_weights: str | None = None
    variants: str | Sequence[str] = ""
    stage: str = ""
    overlay: str | None = None
    device: str = "auto"
    surroundings: str = "healed"


class Study:
    """The same cases, requests and seeds for every method."""

    def __init__(self, options: Options) -> None:
        if options.samples < 1:
            raise ValueError(f"samples must be at least 1, got {options.samples}")
        if options.surroundings not in SURROUNDINGS:
            raise ValueError(
                f"surroundings must be one of {', '.join(SURROUNDINGS)}, "
                f"got {options.surroundings!r}"
            )
        if options.overlay and not options.stage:
            raise ValueError(f"overlay goes with stage autoencoder, got {options.overlay!r} alone")
        self.options, self.seed = options, options.seed
        self.device = str(choose_device(options.device))
        self.folder = find_bundle(options.bundle)
        self.config = self._read()
        self.name = self.folder.resolve().name
        # all that can be wrong is found out before the first hour of sampling
        variants = parse_variants(options.variants)
        self.classes: list[str] = self.config.get("classes", ["all"])
        self.cases: list[Case] = []
        self.methods: dict[str, Method] = {}
        {"textures": self._textures, "shapes": self._shapes, "patches": self._patches}[
            self.config["kind"]
        ](variants)
        self.runs: dict[str, Run] = {}

    def _read(self) -> dict[str, Any]:
        """Return the study with its references to ``inference.json`` resolved."""
        if not (self.folder / "configs" / STUDY_FILE).is_file():
            raise FileNotFoundError(
                f"bundle must have configs/{STUDY_FILE}, got none in {self.folder}"
            )
        self.parser = read_configs(self.folder / "configs", ["inference.json", STUDY_FILE])
        self.parser["bundle_root"] = str(self.folder)
        self.parser["dataset_dir"] = self.options.dataset_dir
        key = f"study#{self.options.stage or 'lesions'}"
        if key not in self.parser:
            raise ValueError(f"stage must be in {STUDY_FILE}, got {self.options.stage or 'none'}")
        return self.parser.get_parsed_content(key, instantiate=False)

    def files(self, section: str) -> list[dict[str, Any]]:
        """Return the entries of a section of the datalist, as the bundle's config reads it."""
        self.parser["files#section"] = section
        self.parser.parse(reset=True)
        return resolved(self.parser, "files")

    def training_cases(self) -> list[Case]:
        """Return all cases of the training section."""
        return self.read_cases("training", None)

    def _textures(self, variants: Sequence[Variant]) -> None:
        options = self.options
        self.model = self._model(options.weights)
        reader, bins = READERS[self.config["cases"]], self.model.values // len(self.classes)
        self.read_cases = lambda section, limit: reader(
            self.files(section), self.model.view, bins, limit
        )
        self.cases = self.read_cases("validation", options.limit)
        if options.surroundings == "healed":
            organ = getattr(self.model.view, "organ", None)
            self.cases = [readers.taken_out(case, organ) for case in self.cases]
        for name, entry in self.config["methods"].items():
            self._add(name, entry)
        for variant in variants:
            overlays = [variant.overlay] if variant.overlay else []
            model = self._model(variant.weights, overlays)
            repeated = self.config["variants"]
            for base in repeated:
                name = variant.name if len(repeated) == 1 else f"{variant.name}: {base}"
                if name in self.methods:
                    raise ValueError(f"variants must not be named as a method, got {name!r}")
                self._texture(name, self.config["methods"][base], model, base, variant.name)

    def _model(self, weights: str | None, overlays: Sequence[str] = ()) -> TextureModel:
        options = self.options
        return TextureModel(options.bundle, options.device, options.steps, weights, overlays)

    def _add(self, name: str, entry: Mapping[str, Any]) -> None:
        """Add a method of the study; one that hangs on an option only where that is given."""
        wanted = entry.get("needs")
        if wanted is not None and not getattr(self.options, wanted):
            return
        if entry.get("source") == "mean":
            self.methods[name] = MeanFill(name)
            return
        model, overlays = self.model, entry.get("overlays", [])
        if overlays or wanted:
            weights = getattr(self.options, wanted) if wanted else self.options.weights
            model = self._model(weights, overlays)
        self._texture(name, entry, model, "", self.name)

    def _texture(
        self, name: str, entry: Mapping[str, Any], model: TextureModel, base: str, owner: str
    ) -> None:
        histogram = entry.get("histogram")
        presets = self.folder / "configs" / self.config.get("presets", "histograms.json")
        targets, asked = requests(
            self.cases, self.model, histogram, entry.get("subtype"), presets, self.seed
        )
        key = "own" if histogram is None else histogram
        key = key if key in ("own", "other") else base or name
        # asked for less, a lesion is compared with what others were asked for
        compare = {
            n: targets
            if n == key
            else requests(self.cases, self.model, n, None, presets, self.seed)[0]
            for n in entry.get("compare", [key])
        }
        self.methods[name] = TextureMethod(
            name, base, owner, model.facts, asked, compare, model.margin_mm, model
        )

    def _shapes(self, variants: Sequence[Variant]) -> None:
        options = self.options
        if options.weights is not None or variants:
            raise ValueError("weights and variants must be left out for a bundle of shapes")
        self.read_cases = lambda section, limit: readers.read_masks(self.files(section), limit)
        self.cases = self.read_cases("validation", options.limit)
        generator = ShapeGenerator(options.bundle, options.device)
        facts = {"weights_sha256": sha256_file(generator.weights)[:16]}
        draws: dict[str, tuple[shapes.DrawShape, dict[str, Any]]] = {
            "ellipsoid": (shapes.draw_ellipsoid, {}),
            "model": (generator.draw, facts),
        }
        for name, entry in self.config["methods"].items():
            if entry["source"] == "nearest":
                self.methods[name] = shapes.NearestShapes(name, library=self.training_cases())
                continue
            source, known = draws[entry["source"]]
            cut = entry.get("cut", False)
            self.methods[name] = shapes.ShapeMethod(name, facts=known, source=source, cut=cut)

    def _patches(self, variants: Sequence[Variant]) -> None:
        options = self.options
        if variants:
            raise ValueError(f"variants must be left out for stage {options.stage}")
        overlays = [options.overlay] if options.overlay else []
        model = reconstruction.Autoencoder(
            options.bundle, options.device, options.weights, overlays
        )
        sections = {section: self.files(section) for section in self.config["sections"]}
        limit = len(sections["validation"]) if options.limit is None else options.limit
        for section, files in sections.items():
            chosen = readers.spread(files, limit, ends=True)
            self.cases += readers.read_patches(chosen, section, model.intensity_range)
        self.methods = {
            name: reconstruction.Reconstruction(name, facts=model.facts, autoencoder=model)
            for name in self.config["methods"]
        }

    def run(self) -> dict[str, Any]:
        """Let each method make something of each case, and measure it."""
        samples = self.config.get("samples", self.options.samples)
        for name, method in self.methods.items():
            self.runs[name] = self._run(method, samples)
        settings: dict[str, Any] = {
            "bundle": self.name,
            "dataset": self.options.dataset_dir or "embedded phantom",
            "cases": len(self.cases),
            "samples": samples,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "seed": self.seed,
        }
        if self.config["kind"] == "textures":
            settings["surroundings"] = SURROUNDINGS[self.options.surroundings]
        results: dict[str, Any] = {
            "settings": settings,
            "methods": {
                name: {
                    **({"facts": method.facts} if method.facts else {}),
                    "seconds": quartiles(self.runs[name].seconds),
                }
                for name, method in self.methods.items()
            },
            "real": {},
            "together": {},
            "cases": [
                {"name": case.name, "patient": case.patient, **case.facts} for case in self.cases
            ],
        }
        for measure, given in self.config["measures"].items():
            self._measure(measure, dict(given), results)
        return results

    def _run(self, method: Method, samples: int) -> Run:
        images: list[list[Any]] = [[] for _ in self.cases]
        seconds = [0.0] * len(self.cases)
        with tqdm(total=len(self.cases) * samples, desc=method.name) as bar:
            for sample in range(samples):
                start = time.perf_counter()
                generated = method.generate(self.cases, self.seed + SEED_STEP * sample)
                for i, made in enumerate(generated):
                    images[i].append(made)
                    now = time.perf_counter()
                    seconds[i] += (now - start) / samples
                    start = now
                    bar.update()
        return Run(images, seconds)

    def _measure(self, measure: str, given: dict[str, Any], results: dict[str, Any]) -> None:
        """Add what one measure finds to the results."""
        needs = given.pop("needs", None)
        if needs is not None and not getattr(self.options, needs):
            return
        bases = given.pop("methods", list(self.methods))
        names = [name for name, method in self.methods.items() if (method.base or name) in bases]
        found = MEASURES[measure](self, names, **given)
        for name, value in found["methods"].items():
            results["methods"][name][measure] = value
        for part in ("real", "together"):
            if found.get(part):
                results[part][measure] = found[part]
        for name, values in found.get("cases", {}).items():
            for row, value in zip(results["cases"], values, strict=True):
                row.setdefault(measure, {})[name] = value


def evaluate_bundle(out: str, options: Options) -> dict[str, Any]:
    """Run the study of a bundle; write ``results.json``, ``results.md`` and ``results.png``.

    ``results.json``, which is returned, has ``settings``; ``methods``, by name what each measure
    found; ``real``, the same of the real cases; ``together``, what concerns several methods;
    ``cases``, by measure and method.
    """
    study, target = Study(options), Path(out)
    results = study.run()
    text = page(results, study.config)
    write_json(target / "results.json", results)
    with new_file(target / "results.md") as partial:
        partial.write_text(text, encoding="utf-8")
    print(text)
    write_figure(target / "results.png", study, results)
    return results
