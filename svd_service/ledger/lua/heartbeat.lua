-- A worker process says that it holds the model and is there. ARGV: name of the process, its status as JSON, its device,
-- the queue that it takes jobs from.
hear()
local name, queue = ARGV[1], ARGV[4]
local before = redis.call('HGET', key('worker_queue'), name)
if before and before ~= queue then leave_work(name) end
redis.call('ZADD', key('workers'), now, name)
redis.call('ZADD', key('workers:' .. queue), now, name)
redis.call('HSET', key('worker_status'), name, ARGV[2])
redis.call('HSET', key('worker_device'), name, ARGV[3])
redis.call('HSET', key('worker_queue'), name, queue)
redis.call('ZADD', key('queues'), now, queue)
redis.call('ZADD', key('models'), now, (parts_of(queue)))
redis.call('ZREM', key('preparing'), name)
redis.call('HDEL', key('preparing_status'), name)
