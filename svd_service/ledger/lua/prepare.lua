-- A worker process is not ready yet and says why. ARGV: name of the process, what it is doing as JSON.
redis.call('ZADD', key('preparing'), now, ARGV[1])
redis.call('HSET', key('preparing_status'), ARGV[1], ARGV[2])
