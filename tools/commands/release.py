"""Commands that bring bundles to people: check, pack, release."""

from __future__ import annotations

from tools.commands.result import Result

__all__ = ["check", "pack", "release"]


def pack(bundle: str, out: str = "dist") -> Result:
    """Write the model-zoo zip of a bundle: the bundle and the code it runs on.

    Args:
        bundle: folder of the bundle.
        out: folder to write NAME_vVERSION.zip to.
    """
    from tools.release.pack import pack_bundle

    path = str(pack_bundle(bundle, out))
    return Result(f"wrote {path}", {"written": path})


def check(*bundles: str, fix: bool = False, schema: str | None = None) -> Result:
    """Check bundles against the rules of the house and of the model zoo; one line per finding.

    Example: python -m tools check bundles/lefusion_lidc --fix

    Args:
        bundles: folders; none means all in bundles/.
        fix: copy shared settings from train.json to the other configs, and write them in the house
            form.
        schema: local copy of the metadata schema; default: the one in ../shared/reference; where
            there is none the schema is not checked.
    """
    from tools.release.check import check_bundles, find_bundles

    folders = find_bundles(bundles)
    findings = check_bundles(folders, fix, schema)
    names = [folder.name for folder in folders]
    facts = {"bundles": names, "findings": findings}
    if findings:
        return Result("\n".join(findings), facts, exit_code=1)
    return Result(f"{len(folders)} bundle{'s' * (len(folders) != 1)} checked, no finding", facts)


def release(
    *bundles: str, out: str = "dist", base_url: str | None = None, schema: str | None = None
) -> Result:
    """Check bundles, write their zips, and name them in model_info.json as the model zoo does.

    Nothing is written if "check" finds something. A version that model_info.json has already must
    not mean other bytes: raise "version" in the bundle's metadata.json. Earlier versions stay.

    Example: python -m tools release --out dist --base_url https://example.org/bundles

    Args:
        bundles: folders; none means all in bundles/.
        out: folder to write NAME_vVERSION.zip and model_info.json to.
        base_url: address of the folder that the zips will be served from; default: that of OUT on
            this machine.
        schema: local copy of the metadata schema, as for check.
    """
    from tools.release.check import find_bundles
    from tools.release.index import release_bundles

    checked = check(*bundles, schema=schema)
    if checked.exit_code:
        return checked
    done = release_bundles(find_bundles(bundles), out, base_url)
    wrote = [f"wrote {path}" for path in (*done.zips, done.index_file)]
    facts = {
        "written": [str(path) for path in done.zips],
        "index": str(done.index_file),
        "entries": done.entries,
        "notes": done.notes,
    }
    return Result("\n".join([checked.text, *wrote, *done.notes]), facts)
