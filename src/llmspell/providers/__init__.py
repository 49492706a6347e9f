"""Providers: what turns texts into vectors, and the cache in front of it.

Not here: where vectors are kept (`storage`), what is worth embedding (`memory`, `rag`).

Rule 1: every vendor is one file; its packages are optional and imported when it is opened, never before.
Rule 2: nobody holds a database connection while a provider works.
"""
