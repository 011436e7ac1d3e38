"""The ledger: what is known about every job, in Redis."""
