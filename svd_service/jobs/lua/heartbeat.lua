-- A worker process says that it holds the model and is there. ARGV: name of the process, its status as JSON, the queue that
-- it takes jobs from.
hear()
redis.call('ZADD', key('workers'), now, ARGV[1])
redis.call('HSET', key('worker_status'), ARGV[1], ARGV[2])
redis.call('HSET', key('worker_queue'), ARGV[1], ARGV[3])
redis.call('ZADD', key('models'), now, (parts_of(ARGV[3])))
redis.call('ZREM', key('preparing'), ARGV[1])
redis.call('HDEL', key('preparing_status'), ARGV[1])
