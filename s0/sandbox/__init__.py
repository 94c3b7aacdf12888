"""Verified execution of model-written Python and SQL: `with Sandbox() as sb: sb.check(PythonCheck(...))`.

The tests never run in the candidate's process; see docs/sandbox.md for what is promised and what is not.
"""

from s0.sandbox.jobs import PythonCheck, SqlQuery, SqlResult
from s0.sandbox.pool import Sandbox

__all__ = ["PythonCheck", "Sandbox", "SqlQuery", "SqlResult"]
