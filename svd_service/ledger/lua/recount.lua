-- Recompute the counters that follow from the sets. No arguments. Returns nothing.
-- include: recount
-- flags: allow-oom
recount()
