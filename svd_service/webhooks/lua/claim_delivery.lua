-- Take the right to try a delivery. ARGV: id, token (new for every claim), seconds after which it is taken back.
-- Answers {number of the try, url, type, owner, job as JSON: its fields as name, value, …}, or {} when there is nothing
-- to do: it is over, another is at it, or its time has not come.
local id, token = ARGV[1], ARGV[2]
if of_delivery(id, 'state') ~= 'pending' then return {} end
local holder = of_delivery(id, 'token')
if holder ~= token then
  local due = redis.call('ZSCORE', key('outbox'), id)
  if holder or (due and tonumber(due) > now) then return {} end
  redis.call('ZREM', key('outbox'), id)
  redis.call('ZADD', key('posted'), now + tonumber(ARGV[3]), id)
  local number = redis.call('HINCRBY', delivery_key(id), 'tries', 1)
  redis.call('HSET', delivery_key(id), 'token', token, 'began:' .. number, now_text)
  redis.call('HDEL', delivery_key(id), 'next')
end
local told = redis.call('HMGET', delivery_key(id), 'url', 'type', 'owner', 'job')
return { tonumber(of_delivery(id, 'tries')), told[1], told[2], told[3], told[4] }
