"""Embedders: unit length, deterministic, close for like texts; none without a model."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memory.embed import (
    Embedder,
    EmbedderError,
    HashEmbedder,
    SentenceEmbedder,
    load_embedder,
)


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    return load_embedder("default")


@pytest.mark.parametrize("name", ["hash", "default"])
def test_unit_rows_and_determinism(name: str) -> None:
    embedder = load_embedder(name)
    texts = ["What is 3 + 4?", "", "Zähle die Buchstaben: ñ 漢字 🙂", "What is 3 + 4?"]
    vectors = embedder.embed(texts)
    assert isinstance(embedder, Embedder)
    assert vectors.shape == (4, embedder.dimension) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[3], atol=1e-6)
    assert np.allclose(load_embedder(name).embed(texts), vectors, atol=1e-6)
    assert load_embedder(name).identity == embedder.identity
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_hash_embedder_sees_shared_words() -> None:
    a, b, c = HashEmbedder().embed(
        ["find the gcd of 12 and 18", "find the gcd of 7 and 21", "spell the word backward"]
    )
    assert a @ b > a @ c + 0.2


def test_hash_embedder_is_the_same_on_every_machine() -> None:
    vector = HashEmbedder(8).embed(["gcd of 12"])[0]
    expected = np.array([0, 0, 1, 0, 0, -2, 0, 1]) / np.sqrt(6)
    assert np.allclose(vector, expected, atol=1e-6)


def test_hash_identity_follows_the_dimension() -> None:
    assert HashEmbedder(8).identity != HashEmbedder(16).identity
    with pytest.raises(EmbedderError, match="dimension"):
        HashEmbedder(0)


def test_minilm_puts_like_meanings_together(minilm: Embedder) -> None:
    anchor, like, unlike = minilm.embed(
        [
            "Reverse the order of the words in this sentence.",
            "Write the following phrase with its words backwards.",
            "How many 1 bits are there in the binary representation of 1234?",
        ]
    )
    assert float(anchor @ like) > float(anchor @ unlike) + 0.3


def test_minilm_is_silent_and_offline(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(
        """
import socket
def refuse(*arguments):
    raise AssertionError(f"network: {arguments}")
socket.socket.connect = socket.getaddrinfo = refuse
import sys
from memory.embed import load_embedder
assert not {"torch", "sentence_transformers"} & sys.modules.keys()
embedder = load_embedder("default")
assert embedder.identity and "torch" not in sys.modules
print(embedder.dimension, embedder.embed(["a", "b"]).shape)
"""
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "384 (2, 384)\n", "")


def test_identity_follows_the_weights(minilm: Embedder, tmp_path: Path) -> None:
    assert isinstance(minilm, SentenceEmbedder)
    copy = tmp_path / "model"
    shutil.copytree(minilm.folder, copy)
    assert SentenceEmbedder(copy).identity == minilm.identity  # wherever it lies
    weights = copy / "model.safetensors"
    with weights.open("r+b") as file:  # another training: same header, same size, other numbers
        file.seek(weights.stat().st_size // 2)
        file.write(os.urandom(weights.stat().st_size // 4))
    assert SentenceEmbedder(copy).identity != minilm.identity


@pytest.mark.parametrize("name", ["nonsense", "/no/such/folder", "no/such-model", ""])
def test_unknown_name_lists_the_choices(name: str, tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match=r"unknown embedder .*choose default, hash"):
        load_embedder(name)
    with pytest.raises(ValueError, match="unknown embedder"):
        load_embedder(str(tmp_path))  # a folder without a model


def test_broken_model_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EmbedderError, match="no sentence-transformers model") as error:
        load_embedder(str(tmp_path)).embed(["a"])
    assert "\n" not in str(error.value)
