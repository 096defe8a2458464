"""What the agent acts in.

A suite is a set of tasks, a task is data, an environment is the world of one task, used once
(`base`). Tasks are divided by their content (`splits`); code that a model writes runs in a
sandbox and nowhere else (`sandbox`); `suites` are what is shipped, `checks` what a suite of
your own must pass.
"""
