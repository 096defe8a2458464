"""Environments that suites share, by what the agent writes: a program, a query, a word."""
