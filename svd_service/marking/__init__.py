"""Content Credentials (C2PA): signed statements in each file that say who made it and how. Knows media types, no jobs.

Needs the extra `c2pa`; only `chain.py`, `signer.py` and `reader.py` import its packages, on first use: they take 0.2 s.
"""
