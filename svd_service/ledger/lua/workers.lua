-- The worker processes of one set. ARGV: seconds after which a silent one does not count, the set (`workers` are ready),
-- the hash of their status. Answers name, last seen, status, … and forgets those long gone.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', key(ARGV[2]), '-inf', now - 3600)) do
  redis.call('HDEL', key(ARGV[3]), name)
  if ARGV[2] == 'workers' then
    leave_work(name)
    redis.call('HDEL', key('worker_queue'), name)
    redis.call('HDEL', key('worker_device'), name)
  else
    redis.call('ZREM', key(ARGV[2]), name)
  end
end
local answer = {}
local seen = redis.call('ZRANGEBYSCORE', key(ARGV[2]), now - tonumber(ARGV[1]), '+inf', 'WITHSCORES')
for i = 1, #seen, 2 do
  answer[#answer + 1] = seen[i]
  answer[#answer + 1] = seen[i + 1]
  answer[#answer + 1] = redis.call('HGET', key(ARGV[3]), seen[i]) or ''
end
return answer
