"""How memory evolves: pure functions from a draft of it to the next.

`draft` is the memory while it is worked on, `consolidate` runs all operators in order; each of
them stands in a file of its own (`admit`, `merge`, `resolve`, `split`, `judge`, `forget`,
`fit`), and `edit` holds what somebody who reads the items may ask for. They propose changes;
nothing is stored here, and what they propose goes live only through the gate.
"""
