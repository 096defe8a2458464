"""A vector index over memory items' keys. Never the truth: rebuilt from the ledger in doubt."""

from memory.index.base import Hits, Index, VectorIndexError
from memory.index.chroma import ChromaIndex
from memory.index.exact import BruteForceIndex
from memory.index.opening import Backend, LedgerKeys, check_index, join_index, open_index

__all__ = [
    "Backend",
    "BruteForceIndex",
    "ChromaIndex",
    "Hits",
    "Index",
    "LedgerKeys",
    "VectorIndexError",
    "check_index",
    "join_index",
    "open_index",
]
