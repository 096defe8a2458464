"""Feedback: what says how good a try was, where it is learnt from. See README.md beside it."""
