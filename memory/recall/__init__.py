"""What to retrieve for a task: `view` reads one snapshot, the rest are its parts.

`query` is what is asked, `living` what the snapshot holds, `nearest` what comes near, `choice`
what of that is shown under quotas and a budget.
"""

from memory.recall.query import Query as Query
from memory.recall.query import RecallSettings as RecallSettings
from memory.recall.view import MemoryView as MemoryView
from memory.recall.view import Recall as Recall
