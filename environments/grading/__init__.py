"""Grading Python that an agent wrote, so that no verdict can be forged.

Three kinds of process take part, each in a sandbox of its own:

- The *trusted* one runs what comes with a task: its published solution and its hidden tests.
  Once per task it runs the tests with that solution and records every call that they make.
- The *untrusted* one has the agent's code and the arguments of those calls, and nothing else: no
  test, no expected value. It sends back what the agent's function returned, as JSON.
- For a verdict, the trusted one runs the tests again with a stand-in that returns what was sent
  back. (Where that is exactly what the published solution returned, there is no need to.)

So the agent's code never shares a process with a test: it may overwrite ``assert``, end the
process, patch the standard library or walk the stack, and has still only said what its function
returns. What it says is read as JSON and becomes plain values (`values`), whose ``==`` is
Python's own.

`values` writes and reads those values, `untrusted` and `trusted` are the programs that run in the
sandboxes (as text: they import nothing from here), `grader` runs them.
"""
