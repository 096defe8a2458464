"""The cycle: acquire, refine, update, evaluate, under an objective.

Begin with `cycle`, which reads top to bottom; each phase's choices and settings stand in a
module of its name. `final` is the test when all generations are done.
"""
