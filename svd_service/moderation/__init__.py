"""The moderation hook: an operator's own service or command that allows or rejects images and videos."""
