"""The contract of `jobs`, on every backend: what a tenant has, and what workers have."""

from __future__ import annotations

from llmspell.testing.contract.job_queue import JobQueueContract
from llmspell.testing.contract.jobs import JobsContract


class TestJobs(JobsContract):
    pass


class TestJobQueue(JobQueueContract):
    pass
