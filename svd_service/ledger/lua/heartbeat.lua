-- A worker process holds its model and is alive. Arguments: worker (name), status (JSON), device, queue (that it takes jobs
-- from). Returns whether the description of its model is stored (1 or 0).
-- include: routes, attempt, workers, paused
-- flags: allow-oom
record_activity()
local name, queue = args.worker, args.queue
local before = redis.call('HGET', key('worker_queue'), name)
if before and before ~= queue then leave_work(name) end
-- One that an operator holds back is alive, but in no set of workers that jobs are given to.
if is_held_back(name) then
  leave_work(name)
else
  redis.call('ZADD', key('workers:' .. queue), now, name)
  redis.call('ZADD', key('queues'), now, queue)
end
redis.call('ZADD', key('workers'), now, name)
redis.call('HSET', key('worker_status'), name, args.status)
redis.call('HSET', key('worker_device'), name, args.device)
redis.call('HSET', key('worker_queue'), name, queue)
redis.call('ZADD', key('models'), now, (parts_of(queue)))
redis.call('ZREM', key('preparing'), name)
redis.call('HDEL', key('preparing_status'), name)
return redis.call('HGET', key('model_descriptions'), (parts_of(queue))) and 1 or 0
