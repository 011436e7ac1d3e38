-- A worker process says that it holds the model and is there. ARGV: name of the process, its status as JSON.
hear()
redis.call('ZADD', key('workers'), now, ARGV[1])
redis.call('HSET', key('worker_status'), ARGV[1], ARGV[2])
redis.call('ZREM', key('preparing'), ARGV[1])
redis.call('HDEL', key('preparing_status'), ARGV[1])
