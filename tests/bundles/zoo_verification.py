"""What the model zoo's full verification does with a bundle, then MONAI's command ``run``.

A process of its own, since both are about what Python finds where: python -P zoo_verification.py
FOLDER JOBS [SCHEMA], where JOBS is a JSON list of arguments of ``monai.bundle.run``.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import torch
from monai.bundle import (
    ckpt_export,
    create_workflow,
    run,
    verify_metadata,
    verify_net_in_out,
)


def verify_files(bundle: Path) -> None:
    for name in ("configs/metadata.json", "LICENSE", "models/model.pt", "configs/inference.json"):
        assert (bundle / name).is_file(), name
    assert not list(bundle.glob("large_files.*"))  # it would be downloaded
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]


def verify_network(bundle: Path) -> None:
    """Call the network with one tensor, and script it, as the zoo does."""
    files = {
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "config_file": str(bundle / "configs" / "inference.json"),
    }
    network = {"net_id": "network_def", "bundle_root": str(bundle), **files}
    verify_net_in_out(**network)
    exported, weights = bundle / "models" / "verify_model.ts", bundle / "models" / "model.pt"
    ckpt_export(**network, filepath=str(exported), ckpt_file=str(weights))
    torch.jit.load(exported)


def verify_properties(bundle: Path) -> None:
    workflow = create_workflow(
        workflow_type="inference",
        bundle_root=str(bundle),
        config_file=str(bundle / "configs" / "inference.json"),
        logging_file=str(bundle / "configs" / "logging.conf"),
        meta_file=str(bundle / "configs" / "metadata.json"),
    )
    assert not workflow.check_properties()


def verify(bundle: Path, schema: str | None) -> None:
    sys.path.insert(0, str(bundle))  # the zoo adds this and nothing else
    verify_files(bundle)
    if schema is not None:
        (bundle / "eval").mkdir()
        shutil.copy(schema, bundle / "eval" / "schema.json")  # MONAI downloads it unless there
        metadata = str(bundle / "configs" / "metadata.json")
        verify_metadata(meta_file=metadata, filepath=str(bundle / "eval" / "schema.json"))
    verify_properties(bundle)
    verify_network(bundle)
    print("verified", bundle.name, "" if schema is None else "with schema")


def forget(bundle: Path) -> None:
    """Undo what the verification added, so that the jobs start from nothing."""
    sys.path.remove(str(bundle))
    for name in [name for name in sys.modules if name.split(".")[0] == "tools"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    assert importlib.util.find_spec("tools") is None


def main(bundle: Path, jobs: str, schema: str | None = None) -> None:
    assert importlib.util.find_spec("tools") is None
    verify(bundle, schema)
    forget(bundle)
    for job in json.loads(jobs):
        run(logging_file=False, **job)
        print("ran", job["run_id"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
