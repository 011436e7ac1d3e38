-- Make the counters anew that follow from the sets. No arguments. Answers nothing.
-- include: recount
-- flags: allow-oom
recount()
