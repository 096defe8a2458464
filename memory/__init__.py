"""What the agent remembers.

An append-only SQLite ledger is the truth (`ledger`, `records`); a vector index that can be
rebuilt from it finds things again (`embed`, `index`); `recall` picks what goes into a prompt,
`credit` measures what items are worth, `consolidation` proposes what becomes of them, `history`
tells the state at any snapshot.
"""
