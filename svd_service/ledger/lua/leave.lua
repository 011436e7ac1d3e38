-- A worker process takes no more jobs. Arguments: worker (name). Returns nothing.
-- include: workers
-- flags: allow-oom
leave_work(args.worker)
