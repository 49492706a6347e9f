"""Bugs to plant, one at a time: what each changes in the code, and the tests that must turn red.

Each was seen in a public system, or made here once. A test file that protects a promise appears with the bug that it is for.
"""

from __future__ import annotations

from tests.planted.backup_bugs import BACKUP_BUGS
from tests.planted.edits import Bug, Edit, everywhere
from tests.planted.index_bugs import INDEX_BUGS
from tests.planted.operator_bugs import OPERATOR_BUGS
from tests.planted.transfer_bugs import TRANSFER_BUGS
from tests.planted.upkeep_bugs import UPKEEP_BUGS

POWER_CUTS = "tests/crash/test_power_cuts.py::test_a_power_cut_loses_nothing_acknowledged_and_leaves_nothing_half_done"
GRAPH_INSTANTS = "r.valid_time_start <= :as_of AND r.valid_time_end > :as_of"


BUGS: dict[str, Bug] = {
    # --- tenants ------------------------------------------------------------------------------------------------------
    "tenant_bound_to_the_session": Bug(
        what="the tenant is set for the session and stays on the pooled connection",
        edits=(
            Edit(
                "storage/postgres/link.py",
                "set_config('app.current_tenant_id', $1, true)",
                "set_config('app.current_tenant_id', $1, false)",
            ),
        ),
        caught_by=("tests/tenancy/test_units_of_work.py::test_no_tenant_is_left_after_a_call",),
    ),
    "owner_not_forced": Bug(
        what="row-level security is enabled and not forced, so the owner sees every tenant",
        edits=(
            Edit(
                "storage/postgres/migrations/V001__initial_setup.sql",
                "EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);",
                "",
            ),
        ),
        caught_by=("tests/migrations/test_postgres_isolation.py::test_the_owner_without_a_tenant_sees_no_row_either",),
    ),
    "read_without_tenant": Bug(
        what="a query of a file forgets its tenant",
        edits=(
            Edit(
                "storage/sqlite/queries/kv.sql",
                "SELECT value FROM kv_store\nWHERE tenant_id = :tenant_id AND",
                "SELECT value FROM kv_store\nWHERE (:tenant_id IS NOT NULL) AND",
            ),
        ),
        caught_by=("tests/contract/test_kv.py::TestKv::test_another_tenant_sees_and_loses_nothing",),
    ),
    "delete_without_tenant": Bug(
        what="clearing one tenant's keys clears everybody's (mem0#3928)",
        edits=(
            Edit(
                "storage/sqlite/queries/kv.sql",
                "DELETE FROM kv_store WHERE tenant_id = :tenant_id;",
                "DELETE FROM kv_store WHERE :tenant_id IS NOT NULL;",
            ),
        ),
        caught_by=("tests/contract/test_kv.py::TestKv::test_another_tenant_sees_and_loses_nothing",),
    ),
    "foreign_statistics": Bug(
        what="the ranking by words counts the texts of all tenants",
        edits=(
            Edit(
                "storage/sqlite/queries/postings.sql",
                "SELECT coalesce(sum(documents), 0), coalesce(sum(terms), 0) FROM text_stats\nWHERE tenant_id = :tenant_id AND",
                "SELECT coalesce(sum(documents), 0), coalesce(sum(terms), 0) FROM text_stats\nWHERE :tenant_id IS NOT NULL AND",
            ),
        ),
        caught_by=(
            "tests/contract/test_memories_search.py::TestMemoriesSearch::test_another_tenants_rows_never_change_a_score",
        ),
    ),
    "cursor_of_another_tenant": Bug(
        what="the signature of a cursor is not looked at",
        edits=(
            Edit("storage/contracts/pages.py", "if not hmac.compare_digest(", "if False and not hmac.compare_digest("),
        ),
        caught_by=(
            "tests/contract/test_event_log.py::TestEventLog::test_a_cursor_belongs_to_its_tenant_and_its_query",
        ),
    ),
    # --- time ---------------------------------------------------------------------------------------------------------
    "interval_without_its_start": Bug(
        what="a fact is not true at the very instant that it begins",
        edits=everywhere(
            "queries/graph.sql", GRAPH_INSTANTS, "r.valid_time_start < :as_of AND r.valid_time_end > :as_of"
        ),
        caught_by=("tests/property/test_bitemporal.py::test_every_answer_is_a_replay_of_what_was_said_until_then",),
    ),
    "interval_with_its_end": Bug(
        what="a fact is still true at the instant that it ends",
        edits=everywhere(
            "queries/graph.sql", GRAPH_INSTANTS, "r.valid_time_start <= :as_of AND r.valid_time_end >= :as_of"
        ),
        caught_by=("tests/property/test_bitemporal.py::test_every_answer_is_a_replay_of_what_was_said_until_then",),
    ),
    "recorded_time_goes_back": Bug(
        what="two changes are recorded at one instant, or in the wrong order, when the clock stands or goes back",
        edits=(
            Edit(
                "storage/sqlite/queries/graph.sql",
                "max(excluded.last_recorded, tenant_clocks.last_recorded + 1)",
                "excluded.last_recorded",
            ),
            Edit(
                "storage/postgres/queries/graph.sql",
                "greatest(excluded.last_recorded, tenant_clocks.last_recorded + interval '1 microsecond')",
                "excluded.last_recorded",
            ),
        ),
        caught_by=(
            "tests/contract/test_graph_changes.py::TestGraphChanges::test_a_transaction_whose_first_change_failed_still_has_one_instant",
        ),
    ),
    "expired_key_is_read": Bug(
        what="a key whose time has passed is still answered",
        edits=everywhere(
            "queries/kv.sql",
            "AND key = :key AND (expires_at IS NULL OR expires_at > :now);\n\n-- name: set",
            "AND key = :key AND (expires_at IS NULL OR expires_at > :now OR TRUE);\n\n-- name: set",
        ),
        caught_by=("tests/contract/test_kv.py::TestKv::test_an_expired_key_is_absent_before_it_is_deleted",),
    ),
    # --- durability ---------------------------------------------------------------------------------------------------
    "acknowledged_before_the_commit": Bug(
        what="a caller hears of success before the commit",
        edits=(
            Edit(
                "storage/sqlite/writer.py",
                "                done.append(job)\n                self._attempt(job)\n",
                "                done.append(job)\n                self._attempt(job)\n"
                "                self._finish([job])\n                self._deliver()\n                done.pop()\n",
            ),
        ),
        caught_by=(
            "tests/crash/test_sigkill.py::test_kills_inside_of_every_kind_of_write_lose_nothing_acknowledged_and_leave_nothing_half_done",
        ),
    ),
    "group_without_savepoints": Bug(
        what="a write of several statements that fails in the middle leaves its first half in the group's commit",
        edits=(
            Edit("storage/sqlite/writer.py", 'control(connection, "SAVEPOINT job")', "pass"),
            Edit("storage/sqlite/writer.py", 'control(connection, "RELEASE job")', "pass"),
            Edit("storage/sqlite/writer.py", 'self._undo("ROLLBACK TO job")', "pass"),
            Edit("storage/sqlite/writer.py", 'self._undo("RELEASE job")', "pass"),
        ),
        caught_by=("tests/unit/storage/sqlite/test_writer.py::test_a_failing_write_of_a_group_fails_alone",),
    ),
    "lost_answer_called_failure": Bug(
        what="a commit whose answer was lost is said to have failed",
        edits=(
            Edit(
                "storage/postgres/errors.py",
                "    if commits:\n        return OutcomeUnknown(",
                "    if False:\n        return OutcomeUnknown(",
            ),
        ),
        caught_by=("tests/tenancy/test_units_of_work.py::test_a_commit_whose_answer_is_lost_is_of_unknown_outcome",),
    ),
    "key_recorded_without_its_answer": Bug(
        what="a repeated call under its key has its effect again",
        edits=(
            Edit(
                "storage/relational/idempotency.py",
                "        if claimed:\n            return None",
                "        if claimed or True:\n            return None",
            ),
        ),
        caught_by=("tests/api/test_once.py::test_of_callers_with_one_key_one_has_the_effect_and_all_have_its_answer",),
    ),
    # --- counting and racing ------------------------------------------------------------------------------------------
    "content_dropped_while_it_is_referred_to": Bug(
        what="the content of a deleted artifact goes although another artifact has it",
        edits=everywhere(
            "queries/artifacts.sql",
            "AND content_hash = :hash AND reference_count = 0;",
            "AND content_hash = :hash;",
        ),
        caught_by=(
            "tests/contract/test_artifacts.py::TestArtifactReferences::test_the_same_content_of_two_sessions_is_stored_once",
        ),
    ),
    "content_not_verified": Bug(
        what="the content of an artifact is served without a look at its hash",
        edits=(
            Edit(
                "storage/content/outgoing.py",
                "if not whole or self._hash.hexdigest() != self._head.content_hash:",
                "if not whole:",
            ),
        ),
        caught_by=("tests/crash/test_damaged_artifacts.py::test_a_flipped_bit_in_one_value_is_found_wherever_it_is",),
    ),
    "lease_without_fencing": Bug(
        what="a worker whose lease was taken by another may still finish the job",
        edits=everywhere(
            "queries/jobs.sql",
            "j.state = 'running' AND j.lease_id = :lease_id",
            "j.state = 'running' AND (j.lease_id = :lease_id OR TRUE)",
        ),
        caught_by=("tests/contract/test_jobs.py::TestJobQueue::test_a_stale_worker_changes_nothing_and_is_told",),
    ),
    "lease_read_after_its_commit": Bug(
        what="what a lease took is read in an exchange of its own, so that a call that failed has taken jobs",
        edits=(
            Edit(
                "storage/relational/job_queue.py",
                "        rows = await unit.rows_after([*upkeep, (self._queries.lease, taking)], self._queries.leased, **mine)\n",
                "        await unit.batch([*upkeep, (self._queries.lease, taking)])\n"
                "        rows = await unit.rows(self._queries.leased, **mine)\n",
            ),
        ),
        caught_by=(
            "tests/crash/test_between_exchanges.py::test_a_call_that_failed_left_nothing_after_whichever_exchange_the_server_went[jobs.lease]",
        ),
    ),
    "updates_get_lost": Bug(
        what="an artifact's expected revision is not compared",
        edits=everywhere(
            "queries/artifacts.sql", "OR a.revision = :expected_revision", "OR a.revision <= :expected_revision + 9"
        ),
        caught_by=(
            "tests/contract/test_artifacts.py::TestArtifacts::test_an_update_at_another_revision_is_a_conflict_with_both",
        ),
    ),
    "transaction_begins_deferred": Bug(
        what="a transaction takes its lock at the first write, so that one who has read before is told that the file is busy",
        edits=(Edit("storage/sqlite/writer.py", '"BEGIN IMMEDIATE"', '"BEGIN"'),),
        caught_by=(
            "tests/concurrency/test_processes.py::test_eight_processes_that_write_everything_lose_nothing_and_are_never_told_that_the_file_is_busy",
        ),
    ),
    "audit_chain_without_links": Bug(
        what="an entry of the audit log does not follow the hash of the one before",
        edits=(
            Edit(
                "storage/contracts/audit_checks.py",
                "previous = entry_hash(link.tenant, entry, previous)",
                "previous = entry_hash(link.tenant, entry, link.head.entry_hash)",
            ),
        ),
        caught_by=("tests/tampering/test_audit_chain.py::test_an_edited_entry_is_found_at_every_position",),
    ),
    "connection_in_doubt_is_lent_again": Bug(
        what="a connection that came back in the middle of a transaction serves the next caller; three locks must fail for it",
        edits=(
            Edit(
                "storage/postgres/executor.py",
                "await link.exchange((bind_texts(ROLLBACK),), commits=False, name=ROLLBACK.label)",
                "pass",
            ),
            Edit("storage/postgres/pool.py", "if self._closed or not link.idle or", "if self._closed or"),
            Edit(
                "storage/postgres/link.py",
                "            return False\n        return self.idle",
                "            return False\n        return True",
            ),
        ),
        caught_by=("tests/tenancy/test_units_of_work.py::test_no_tenant_is_left_after_a_failing_transaction",),
    ),
    # --- what guards the doors ----------------------------------------------------------------------------------------
    "partition_without_policies": Bug(
        what="a month of events that is made later has no row-level security of its own",
        edits=(
            Edit(
                "storage/postgres/migrations/V011__event_log.sql",
                "    PERFORM llmspell.apply_tenant_rls(format('llmspell.%I', partition_name)::regclass);",
                "",
            ),
        ),
        caught_by=("tests/migrations/test_postgres_isolation.py::test_a_partition_made_later_is_isolated_by_itself",),
    ),
    "small_tenant_starved": Bug(
        what="an approximate search that met too few rows of a small tenant is taken for the whole answer (MemOS#2231)",
        edits=(
            Edit(
                "storage/postgres/queries/nearest.sql",
                "OFFSET (SELECT count(*) FROM near)\n  ) THEN -1.0::float8",
                "OFFSET (SELECT count(*) FROM near)\n  ) THEN p.state",
            ),
        ),
        caught_by=(
            "tests/unit/storage/postgres/test_nearest.py::test_new_vectors_never_stand_in_for_nearer_ones_that_the_index_did_not_give",
        ),
    ),
    "index_left_to_the_planner": Bug(
        what="the planner decides whether a search goes through the approximate index, and sorts a large tenant's rows instead",
        edits=(
            Edit(
                "storage/postgres/queries/nearest.sql",
                "set_config('enable_sort', 'off', true),",
                "set_config('enable_sort', 'on', true),",
            ),
        ),
        caught_by=(
            "tests/meta/test_plans.py::test_a_search_through_the_approximate_index_scans_it_whatever_the_planner_takes_the_tenant_for",
        ),
    ),
    "promotion_not_counted": Bug(
        what="vectors that moved into the approximate index are not counted in the transaction that moved them",
        edits=(
            Edit(
                "storage/postgres/queries/nearest.sql",
                "SET ann_vectors = ann_vectors + (SELECT count(*) FROM moved)",
                "SET ann_vectors = ann_vectors",
            ),
        ),
        caught_by=(
            "tests/unit/storage/postgres/test_promotions.py::test_a_promotion_that_stops_anywhere_loses_and_doubles_nothing_and_goes_on",
        ),
    ),
    "write_lost_while_partitioning": Bug(
        what="a delete is not repeated in the partitions that the vectors are being moved into",
        edits=(
            Edit(
                "storage/postgres/vector_partitions.py",
                "AFTER INSERT OR UPDATE OR DELETE ON llmspell.{table}",
                "AFTER INSERT OR UPDATE ON llmspell.{table}",
            ),
        ),
        caught_by=(
            "tests/unit/storage/postgres/test_vector_partitions.py::test_what_is_written_while_the_vectors_move_arrives",
        ),
    ),
    "secret_of_another_row_opens": Bug(
        what="a sealed secret is not bound to its tenant and row",
        edits=(Edit("security/keyring.py", "_associated(header, bound_to)", "_associated(header, ())"),),
        caught_by=("tests/unit/security/test_keyring.py::test_bytes_of_another_row_or_tenant_never_open",),
    ),
    "any_text_of_a_key_is_accepted": Bug(
        what="whoever knows the public part of an access key is let in",
        edits=(Edit("security/access_keys.py", "if found is None or not same or", "if found is None or"),),
        caught_by=("tests/api/test_access_keys.py::test_every_refusal_is_the_same_answer_after_the_same_work",),
    ),
    "cache_shared_by_tenants": Bug(
        what="the cache of embeddings tells one tenant what another has embedded",
        edits=(
            Edit(
                "providers/cache.py",
                'return "t-" + hashlib.blake2b(tenant.encode(), digest_size=16).hexdigest()',
                'return "t-" + hashlib.blake2b(b"", digest_size=16).hexdigest()',
            ),
        ),
        caught_by=("tests/unit/providers/test_cache.py::test_a_tenants_entries_are_its_own_and_erased_with_it",),
    ),
    "secret_is_printed": Bug(
        what="a secret shows itself when it is printed",
        edits=(
            Edit(
                "_sections.py",
                "    def __repr__(self) -> str:\n        return MASK",
                "    def __repr__(self) -> str:\n        return self._text",
            ),
        ),
        caught_by=("tests/api/test_no_secret_is_shown.py::test_of_a_thousand_marked_secrets_none_is_said",),
    ),
    "owner_may_serve": Bug(
        what="a store opens as a role that row-level security does not bind",
        edits=(
            Edit(
                "storage/postgres/roles.py",
                'return "owns the tables, or is a member of the role that does" if facts.owns_tables else ""',
                'return ""',
            ),
        ),
        caught_by=("tests/unit/storage/postgres/test_backend.py::test_the_owner_is_refused",),
    ),
    # --- what was found while this was built ---------------------------------------------------------------------------
    "disk_is_not_synced": Bug(
        what="a commit is acknowledged that no sync has brought to the disk",
        edits=(
            Edit("storage/sqlite/pragmas.py", 'pragma("synchronous", synchronous)', 'pragma("synchronous", "OFF")'),
        ),
        caught_by=(f"{POWER_CUTS}[small writes]",),
    ),
    "failed_sync_called_failure": Bug(
        what="a commit that the disk did not confirm is said to have failed, and is there after a restart",
        edits=(
            Edit(
                "storage/sqlite/writer.py",
                "if may_have_committed(exc, error):",
                "if False and may_have_committed(exc, error):",
            ),
        ),
        caught_by=(
            "tests/crash/test_failing_disk.py::test_after_one_failure_what_was_acknowledged_is_there_and_the_store_goes_on",
        ),
    ),
    "quota_read_first_and_written_then": Bug(
        what="what is used is compared with the limit before the row is this writer's, so that two take the last place",
        edits=(
            Edit(
                "storage/postgres/migrations/V033__tenant_usage.sql",
                """
            AND (add_documents <= 0 OR granted.max_documents IS NULL OR u.documents + add_documents <= granted.max_documents)
            AND (add_bytes <= 0 OR granted.max_storage_bytes IS NULL OR u.storage_bytes + add_bytes <= granted.max_storage_bytes)
            AND (add_vectors <= 0 OR granted.max_vectors IS NULL OR u.vectors + add_vectors <= granted.max_vectors);""",
                """
            AND EXISTS (SELECT FROM llmspell.tenant_usage AS read WHERE read.tenant_id = in_tenant
            AND (add_documents <= 0 OR granted.max_documents IS NULL OR read.documents + add_documents <= granted.max_documents)
            AND (add_bytes <= 0 OR granted.max_storage_bytes IS NULL OR read.storage_bytes + add_bytes <= granted.max_storage_bytes)
            AND (add_vectors <= 0 OR granted.max_vectors IS NULL OR read.vectors + add_vectors <= granted.max_vectors));""",
            ),
        ),
        caught_by=("tests/concurrency/test_quota_races.py::test_eight_writers_store_exactly_what_the_quota_grants",),
    ),
    "signature_not_verified": Bug(
        what="in the strict mode any signature under a known key id is good enough",
        edits=(
            Edit(
                "storage/postgres/migrations/V032__tenant_signing.sql",
                "IF FOUND AND sha256(outer_key",
                "IF FOUND OR sha256(outer_key",
            ),
        ),
        caught_by=("tests/tenancy/test_signed_tenants.py::test_an_injected_tenant_brings_no_row_of_another_to_light",),
    ),
    "unknown_outcome_forgotten": Bug(
        what="a call whose answer was lost is said to have failed when the store is out of reach at the next try",
        edits=(
            Edit(
                "retries.py",
                "if self._unknown is not None and self._unknown is not error:",
                "if False:",
            ),
        ),
        caught_by=("tests/api/test_once.py::test_a_lost_answer_that_cannot_be_found_out_stays_unknown_until_it_is",),
    ),
    "refusal_at_the_gate_taken_for_an_answer": Bug(
        what="a call whose answer was lost is said to have failed when its tenant was suspended meanwhile",
        edits=(
            Edit(
                "retries.py",
                "elif isinstance(error, IdempotencyConflict):",
                'elif isinstance(error, IdempotencyConflict) or error.code.startswith("LS-12"):',
            ),
        ),
        caught_by=(
            "tests/api/test_once.py::test_a_lost_answer_stays_unknown_when_the_tenant_is_suspended_before_it_is_found_out",
        ),
    ),
    "repeated_without_a_time_limit": Bug(
        what="a call that always meets another one goes on for as many tries as there may be, however long each waits",
        edits=(Edit("retries.py", "pause_s is not None and now + pause_s <= self._until", "pause_s is not None"),),
        caught_by=(
            "tests/unit/test_retries.py::test_a_call_that_always_meets_another_ends_in_time_although_it_has_tries_left",
        ),
    ),
    "statements_of_all_clients_have_one_name": Bug(
        what="behind a pooler a client runs the prepared statement of another one",
        edits=(Edit("storage/postgres/link.py", 'b"s%d_%s" % (self._names, self._own)', 'b"s%d" % self._names'),),
        caught_by=(
            "tests/tenancy/test_pooler.py::test_a_store_that_was_not_told_of_the_pooler_runs_no_statement_of_another_client_and_says_what_to_set",
        ),
    ),
    "uses_counted_across_tenants": Bug(
        what="two tenants whose keys have one id share the count of their uses",
        edits=(Edit("security/api_keys.py", "key = (tenant, found.key_id)", "key = found.key_id"),),
        caught_by=("tests/tenancy/test_two_tenants.py::test_uses_of_keys_of_one_id_are_counted_for_whose_they_are",),
    ),
    "audit_failure_is_swallowed": Bug(
        what="a privileged action goes on although its entry in the audit log could not be written",
        edits=(
            Edit(
                "storage/relational/audit.py",
                "    return (await _append(executor, runtime, [checks.require_entry(entry)]))[0]",
                "    try:\n        return (await _append(executor, runtime, [checks.require_entry(entry)]))[0]\n"
                "    except Exception:\n        return None",
            ),
        ),
        caught_by=("tests/tampering/test_audit_failure.py::test_a_change_that_cannot_be_recorded_does_not_happen",),
    ),
    "references_not_counted": Bug(
        what="the second holder of a content is not counted",
        edits=(
            Edit(
                "storage/sqlite/migrations/V010__artifacts.sql",
                "SET reference_count = reference_count + 1",
                "SET reference_count = max(reference_count, 1)",
            ),
        ),
        caught_by=(
            "tests/concurrency/test_races.py::test_a_content_is_there_as_long_as_somebody_holds_it_and_gone_with_the_last",
        ),
    ),
    "savepoint_takes_the_clock_back": Bug(
        what="an undone block takes the recorded instant of its transaction with it, so that an old answer changes",
        edits=(
            Edit(
                "storage/relational/graph.py",
                "await executor.execute(self._queries.hold_clock, recorded=self._dialect.instant(recorded))",
                "pass",
            ),
        ),
        caught_by=(
            "tests/contract/test_savepoints.py::TestSavepoints::test_an_undone_block_does_not_take_the_recorded_instant_of_its_transaction_away",
        ),
    ),
    "count_outside_the_transaction": Bug(
        what="the statistics of a memory's words are written after its transaction, in one of their own",
        edits=(
            Edit(
                "storage/relational/memories.py",
                """                *self._postings.added(texts),
                *self._embedding_statements(vectors, space_id, dimension),
                *self._job_for(records),
            ],
        )
""",
                """                *self._postings.added(texts)[1:],
                *self._embedding_statements(vectors, space_id, dimension),
                *self._job_for(records),
            ],
        )
        await self._unit.batch(self._postings.added(texts)[:1])
""",
            ),
        ),
        caught_by=(f"{POWER_CUTS}[transactions]",),
    ),
    "audit_does_not_look": Bug(
        what="the audit of isolation does not ask whether row-level security is forced",
        edits=(
            Edit(
                "storage/postgres/rls_audit.sql",
                "FROM tenant_tables AS t WHERE NOT t.relforcerowsecurity",
                "FROM tenant_tables AS t WHERE false",
            ),
        ),
        caught_by=("tests/tenancy/test_isolation_holes.py::test_a_hole_is_named_and_gone_when_it_is_mended",),
    ),
    "crowded_by_others": Bug(
        what="the vectors of all tenants are read into one tenant's space, and take the places of its own",
        edits=(
            Edit(
                "storage/sqlite/queries/nearest.sql",
                "WHERE tenant_id = :tenant_id AND space_id = :space_id AND (seq, rowid) > (:seq, :row)",
                "WHERE (:tenant_id IS NOT NULL) AND space_id = :space_id AND (seq, rowid) > (:seq, :row)",
            ),
        ),
        caught_by=(
            "tests/tenancy/test_crowding.py::test_no_answer_moves_when_another_tenant_fills_the_neighbourhood[file]",
        ),
    ),
    "missing_key_differs": Bug(
        what="a row without the key is said to differ from the value (langgraph#8919), in the columns of an index only",
        edits=(
            Edit(
                "storage/index/encoded.py",
                "return self.present(count) & ~self._among([self._known(operand)], count)",
                "return ~self._among([self._known(operand)], count)",
            ),
        ),
        caught_by=(
            "tests/unit/storage/index/test_columns.py::test_a_condition_selects_what_the_rules_say",
            "tests/property/test_columns.py::test_columns_select_what_the_model_selects",
        ),
    ),
    # --- the index of vectors ---------------------------------------------------------------------------------------------
    **INDEX_BUGS,
    **BACKUP_BUGS,
    # --- what an operator relies on --------------------------------------------------------------------------------------
    **OPERATOR_BUGS,
    **UPKEEP_BUGS,
    # --- transfers --------------------------------------------------------------------------------------------------------
    **TRANSFER_BUGS,
}
