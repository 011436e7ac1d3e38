-- The worker processes that are there. ARGV: seconds after which a silent one does not count. Answers name, last seen,
-- status, … and forgets those long gone.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('workers'), '-inf', now - 3600)) do
  redis.call('ZREM', key('workers'), name)
  redis.call('HDEL', key('worker_status'), name)
end
local answer = {}
local seen = redis.call('ZRANGEBYSCORE', key('workers'), now - tonumber(ARGV[1]), '+inf', 'WITHSCORES')
for i = 1, #seen, 2 do
  answer[#answer + 1] = seen[i]
  answer[#answer + 1] = seen[i + 1]
  answer[#answer + 1] = redis.call('HGET', key('worker_status'), seen[i]) or ''
end
return answer
