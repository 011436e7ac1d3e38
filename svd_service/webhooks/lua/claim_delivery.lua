-- Claim a delivery for one attempt.
-- Arguments: id, token (new for every claim), seconds (after which the claim expires).
-- Returns {number of the attempt, url, type, owner, job as JSON: its fields as name, value, …}, or {} when there is nothing
-- to do: it is over, claimed, or not due.
-- include: outbox
-- flags: allow-oom
local id, token = args.id, args.token
local state = redis.pcall('HGET', delivery_key(id), 'state')
if type(state) == 'table' then is_delivery(id) end
if state ~= 'pending' or not is_delivery(id) then return {} end
local holder = of_delivery(id, 'token')
if holder ~= token then
  local due = redis.call('ZSCORE', key('outbox'), id)
  if holder or (due and tonumber(due) > now) then return {} end
  redis.call('ZREM', key('outbox'), id)
  redis.call('ZADD', key('posted'), now + args.seconds, id)
  local number = redis.call('HINCRBY', delivery_key(id), ATTEMPTS, 1)
  redis.call('HSET', delivery_key(id), 'token', token, 'began:' .. number, now_text)
  redis.call('HDEL', delivery_key(id), 'next')
end
local delivery = redis.call('HMGET', delivery_key(id), 'url', 'type', 'owner', 'job')
return { tonumber(of_delivery(id, ATTEMPTS)), delivery[1], delivery[2], delivery[3], delivery[4] }
