"""What the agent remembers.

An append-only SQLite ledger is the truth (`ledger`, `records`); a vector index that can be
rebuilt from it finds things again (`embed`, `index`); `recall` picks what goes into a prompt,
`consolidate` proposes what to keep, `history` tells the state at any snapshot.
"""
