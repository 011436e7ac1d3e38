-- A worker process takes no more jobs. Arguments: worker (name). Returns nothing.
-- include: workers
-- flags: allow-oom
leave_work(args.worker)
redis.call('HDEL', key('worker_status'), args.worker)
redis.call('HDEL', key('worker_device'), args.worker)
-- A message that it had received may still lead to a claim, which checks its queue: that is forgotten later.
if redis.call('HGET', key('worker_queue'), args.worker) then redis.call('ZADD', key('left'), now, args.worker) end
