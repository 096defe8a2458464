"""A run's evolution as web pages: read-only, on this machine, also while the run goes on.

``digest`` boils the ledger down to small rows, ``place`` gives each item its point on the map,
``queries`` and ``pages`` answer what a page asks, ``server`` serves it, ``follow`` keeps up with
a run that goes on, ``export`` writes it all as a file. The pages themselves are in ``assets``:
plain ES modules without a build step.
"""
