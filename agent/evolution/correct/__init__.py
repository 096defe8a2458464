"""Corrections, one function for each method; ``corrections`` runs them. See feedback/README.md."""
