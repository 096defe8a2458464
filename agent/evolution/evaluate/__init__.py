"""Evaluate: the gate that decides, and what is told beside it. See README.md beside it."""
