"""Contents of artifacts on their way in and out: received, hashed, compressed, cut into chunks, and verified when they are read.

Pure of any database. All backends use it, as they use the analyser of texts: what is stored must be the same everywhere.
"""
