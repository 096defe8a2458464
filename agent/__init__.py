"""Who acts and evolves.

One episode is `loop`, many at a time are `rollout`, the model behind them is in `policies`.
`evolution` improves memory and weights in cycles, `training` makes the weights, `stats` decides
what counts as better, `report` tells it. `run` is a run and its folder, `config` its settings,
`cli` the command.
"""
