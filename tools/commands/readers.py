"""Commands by which people judge: the reader test, and the audit of a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from tools.commands.arguments import Number, Seed
from tools.commands.result import Result

__all__ = ["audit", "turing", "turing_score"]


def turing(
    real: str,
    synthetic: str,
    out: str,
    section: str | None = None,
    values: Sequence[int] = (),
    pairs: Number = 40,
    mode: str = "pair",
    modality: str = "CT",
    seed: Seed = 0,
) -> Result:
    """Write a page on which people say which of two lesions is synthetic, a visual Turing test.

    One HTML file that needs no network: it opens in any browser of 2023 or later, by a double
    click. Each pair is a real and a synthetic lesion of about the same diameter, of two patients;
    first all pairs with 10 mm round the lesion, then, where the scans reach that far, all with 30
    mm. Three planes that scroll, three windows, keys for all of it. Each reader gets an order of
    his own, by name and seed. Answers are kept in the browser, so a break or a crash loses nothing,
    and are saved as a file of JSON with reader, times, seed and order.

    Which one is synthetic stands in the page enciphered, and in the saved answers plainly: nobody
    learns it by looking at the page or its source, but it is no protection against a reader who
    wants to cheat. Give readers the page alone, not the folders. Take real and synthetic lesions
    from scans of one kind, or readers tell the scanners apart.

    Example: python -m tools turing --real data/lidc_nodules --section validation --synthetic
        out/compare/lefusion_lidc --out reader_test.html

    Example: python -m tools turing score answers_anna.json answers_ben.json

    Args:
        real: real lesions: a datalist, a folder with datalist.json, or one of X_image and X_label.
        synthetic: synthetic ones, likewise, such as a folder that synthesize wrote.
        out: the page, a new HTML file.
        section: list of the datalist of the real ones to take; default: all.
        values: values of the label maps that are lesions; default: those that lesions.json tells
            of, else all above 0.
        pairs: so many at most, evenly over the sizes; diameters of a pair differ by less than a
            quarter.
        mode: pair (which of the two is synthetic?), or single (is this one real or synthetic?).
        modality: CT, windows for lung and soft tissue in HU; or MR, windows by percentiles.
        seed: of the choice of pairs and of the order.
    """
    from tools.files import require_new
    from tools.studies.reader_test import write_reader_test

    require_new(out)
    facts = write_reader_test(real, synthetic, out, section, values, pairs, mode, modality, seed)
    parts = f"{facts['pairs']} pairs, {' and '.join(facts['views'])}, {facts['megabytes']} MB"
    return Result(f"wrote {out}: {parts}; test {facts['test']}", {"written": out, **facts})


def turing_score(*answers: str) -> Result:
    """Score the answers that readers saved on the page of turing: accuracy with 95 % interval.

    Of each reader and of all together: by what was shown (crop or context), by size and, of single
    lesions, of real and synthetic ones; with the median time. Breaks do not count as time. Files of
    different tests, or two of one reader, are refused.

    Example: python -m tools turing score answers_anna.json answers_ben.json

    Args:
        answers: the files, of one test.
    """
    from tools.studies.readers import read_answers, score, score_page

    result = score(read_answers(answers))
    return Result("\n".join(score_page(result)), result)


def audit(
    dir: str,
    scan: str = "",
    dataset_dir: str | None = None,
    training: str = "",
    section: str = "training",
    out: str = "",
    seed: Seed = 0,
) -> Result:
    """Write a card on a folder that synthesize wrote: what holds of it, in sentences and plots.

    Background: with the scans, that every voxel outside the lesions (or beyond the margin of the
    record) is that of the scan, and all that verify checks. Control: diameters, histograms and
    places, asked for and achieved. Sizes and places against what was asked for. With the training
    data, how far each lesion is from the nearest training lesion, by features and by pictures,
    beside what real lesions of two patients are apart. Diversity: the nearest other lesion, and
    duplicates. Licences of scans and weights, versions, seeds.

    Exit 1 if the background differs, or verify finds something; the card is written all the same.

    Example: python -m tools audit out --scan scans/ --training data/lidc_nodules

    Args:
        dir: the folder.
        scan: as it was given to synthesize; default: the background is not compared.
        dataset_dir: likewise.
        training: lesions that the weights were trained on: a datalist, or its folder.
        section: list of that datalist.
        out: folder for audit.html, audit.json and audit.md; default: the folder itself.
        seed: of draws of real lesions to compare with.
    """
    from tools.files import claimed
    from tools.studies.audit import audit_dataset
    from tools.studies.audit_page import FILES, write_audit

    place = out or dir
    with claimed(out, FILES) if out else contextlib.nullcontext():  # before the work
        found = audit_dataset(dir, scan, dataset_dir, training, section, seed)
        parts = write_audit(place, found)
    verdict = found.facts["background"]["verdict"]
    lines = [f"{part.title}: {' '.join(part.sentences)}" for part in parts]
    text = "\n".join([*lines, f"open {place}/audit.html"])
    facts = {"out": place, "background": verdict, "findings": found.facts["background"]["findings"]}
    return Result(text, facts, 1 if verdict == "failed" else 0)
