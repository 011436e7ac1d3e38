-- A worker process is alive and not ready yet. Arguments: worker (name), status (JSON). Returns nothing.
-- include: base
-- flags: allow-oom
redis.call('ZADD', key('preparing'), now, args.worker)
redis.call('HSET', key('preparing_status'), args.worker, args.status)
