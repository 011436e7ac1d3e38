"""The ledger of these tests has its own clock."""

from tests.unit.ledger.clocked import clock, ledger, ledger_of, outbox, scripts

__all__ = ["clock", "ledger", "ledger_of", "outbox", "scripts"]
