"""Content Credentials (C2PA): signed statements in each file that say who made it and how. Knows media types, no jobs.

Needs the extra `c2pa`; its packages are imported on first use: they take 0.2 s.
"""
