"""Backend ⇄ file ⇄ backend, as streams: what a store holds, in one JSON object, and back.

    exporter.export(source, output, *, clock, tenant=None, only=(), limit=None, progress=None) -> Report
    importer.import_(given, target, *, on_conflict="error", dry_run=False, tenant=None, only=(), limit=None, progress=None)
    importer.transfer(source, target, *, clock, …the same…) -> Report
    verifier.verify(first, second, *, tenant=None, limit=10, progress=None) -> Verification

All four are coroutines; the second and third return a `Report` too. A store is whatever has `transfer_source` and
`transfer_target` (`contracts.transfer.Transferable`): every
`Backend`. Files are `streams.Output(path, compress=None)` and `streams.Input(path, compress=None)`; the path "-" is the standard
output or input; `compress` is "gz", "zst" or "none", and None goes by the suffix. `verify` takes a store or an `Input` for each.
`only` names tables or types (`sessions`, `knowledge_graph`, `vector_embeddings.384`), `limit` is how many things of each.
Reports are those of `reports.py`; progress is called with `contracts.transfer.Progress`.
"""
