"""Webhooks: signing, the outbox, delivery and the Celery app that delivers."""
