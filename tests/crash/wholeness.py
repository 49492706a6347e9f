"""What is half there in a file: every contradiction between rows that are written together, as queries.

Not here: whether what was acknowledged is there; only the test that heard the acknowledgement knows that.
"""

from __future__ import annotations

import apsw
from tests.crash.test_killed_puts import HALF
from tests.crash.test_sigkill import TORN

CHAINS = {
    "an audit entry that does not follow the one before it": """
        SELECT count(*) FROM audit_log a WHERE a.prev_hash <> (SELECT b.entry_hash FROM audit_log b
            WHERE b.tenant_id = a.tenant_id AND b.sequence = a.sequence - 1)""",
    "an audit chain with a gap, or with another head than its last entry": """
        SELECT count(*) FROM audit_heads h WHERE h.sequence <> (SELECT count(*) FROM audit_log a
            WHERE a.tenant_id = h.tenant_id) OR h.entry_hash <> (SELECT a.entry_hash FROM audit_log a
            WHERE a.tenant_id = h.tenant_id AND a.sequence = h.sequence)""",
    "an audit entry without a head": """
        SELECT count(*) FROM audit_log a WHERE NOT EXISTS (SELECT 1 FROM audit_heads h WHERE h.tenant_id = a.tenant_id)""",
    "events with a gap in their numbers": """
        SELECT count(*) FROM event_sequences s WHERE s.value <> (SELECT count(*) FROM event_log e
            WHERE e.tenant_id = s.tenant_id) OR s.value <> (SELECT max(e.sequence) FROM event_log e
            WHERE e.tenant_id = s.tenant_id)""",
    "a reference to a row that is not there": "SELECT count(*) FROM pragma_foreign_key_check",
}
WHOLE = {**TORN, **{what: query.format(s="") for what, query in HALF.items()}, **CHAINS}


def contradictions(connection: apsw.Connection) -> list[str]:
    """Name what is half there."""
    return [what for what, query in WHOLE.items() if connection.execute(query).get]
