"""Whether a task is too much like another: by content, by words, by meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

from agent.evolution.acquire.settings import Near
from environments.base import Task
from environments.splits import SPLITS, split_of
from memory.embed import Vectors
from memory.texts import normal

if TYPE_CHECKING:
    from agent.run import Run

SAME = Near(rouge=2.0, cosine=2.0)  # only what says the same is too much alike
_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """The words that ROUGE is of: runs of letters and digits, in lower case, not stemmed."""
    return _WORD.findall(text.lower())


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L, 0 to 1: the F-measure of the longest common subsequence of words.

    Lin 2004 (aclanthology.org/W04-1013, §3), with beta 1 as in the package ``rouge_score``, by
    which Self-Instruct filters.
    """
    return float(Indel.normalized_similarity(words(a), words(b)))


class Shelf:
    """Tasks that a new one must not be like; what is taken joins them.

    Args:
        texts: their prompts.
        near: from where on two are too much alike.
        embed: prompts to vectors of length 1; asked only where ``near`` goes by them.
    """

    def __init__(self, texts: Sequence[str], near: Near, embed: Callable[[Sequence[str]], Vectors]):
        self._near, self._embed = near, embed
        self._same = {normal(text) for text in texts}
        self._words = [words(text) for text in texts]
        self._vectors = [embed(texts)] if near.cosine <= 1 and texts else []

    def like(self, text: str) -> str:
        """Why a text is too much like one of these, in a few words; "" if it is not."""
        if normal(text) in self._same:
            return "the same"
        own, rouge = words(text), self._near.rouge
        if rouge <= 1 and process.extractOne(
            own, self._words, scorer=Indel.normalized_similarity, score_cutoff=rouge
        ):
            return f"ROUGE-L {rouge:g} or more"
        if self._near.cosine <= 1 and self._vectors:
            vector = self._embed([text])[0]
            if max(float(np.max(known @ vector)) for known in self._vectors) >= self._near.cosine:
                return f"cosine {self._near.cosine:g} or more"
        return ""

    def add(self, text: str) -> None:
        """Put a text with the others."""
        self._same.add(normal(text))
        self._words.append(words(text))
        if self._near.cosine <= 1:
            self._vectors.append(self._embed([text]))


def measured(run: Run, said: Callable[[Task], str]) -> list[Shelf]:
    """What nothing that is made up may be like: every task that is ever measured.

    ``acquire.generate.apart`` says from where on it is. Words are held against all such tasks of
    the suite; meaning against those of this run alone, since embedding takes time.

    Args:
        run: the run.
        said: of a task the text that is compared.
    """
    near, embed = run.config.acquire.generate.apart, run.memory.embedder.embed
    every = [said(task) for task in run.suite.tasks() if split_of(task.id) != "train"]
    own = [said(task) for split in SPLITS if split != "train" for task in run.tasks(split)]
    by_words = near.model_copy(update={"cosine": SAME.cosine})
    return [Shelf(every, by_words, embed), Shelf(own, near, embed)]


def like_any(text: str, shelves: Sequence[Shelf]) -> str:
    """Why a text is too much like something on one of these, in a few words; "" if it is not."""
    return next(filter(None, (shelf.like(text) for shelf in shelves)), "")
