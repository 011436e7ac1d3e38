-- Live workers, by the Celery queue that they take jobs from.
-- include: base

-- The queues of workers with a heartbeat within `max_age` seconds, each with the number of those workers.
local function queues_at_work(max_age)
  local at_work = {}
  for _, queue in ipairs(redis.call('ZRANGEBYSCORE', key('queues'), now - max_age, '+inf')) do
    local workers = redis.call('ZCOUNT', key('workers:' .. queue), now - max_age, '+inf')
    if workers > 0 then at_work[queue] = workers end
  end
  return at_work
end

local function leave_work(name)
  local queue = redis.call('HGET', key('worker_queue'), name)
  redis.call('ZREM', key('workers'), name)
  if queue and redis.call('ZREM', key('workers:' .. queue), name) == 1 then
    if redis.call('EXISTS', key('workers:' .. queue)) == 0 then redis.call('ZREM', key('queues'), queue) end
  end
end

-- Remove worker processes that have been gone for an hour.
local function forget_workers()
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('left'), '-inf', now - 3600, 'LIMIT', 0, 100)) do
    redis.call('ZREM', key('left'), name)
    if not redis.call('ZSCORE', key('workers'), name) then redis.call('HDEL', key('worker_queue'), name) end
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('workers'), '-inf', now - 3600, 'LIMIT', 0, 100)) do
    leave_work(name)
    for _, hash in ipairs({ 'worker_status', 'worker_queue', 'worker_device' }) do redis.call('HDEL', key(hash), name) end
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('preparing'), '-inf', now - 3600, 'LIMIT', 0, 100)) do
    redis.call('ZREM', key('preparing'), name)
    redis.call('HDEL', key('preparing_status'), name)
  end
end
