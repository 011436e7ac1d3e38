-- The id for the job of a request whose caller counts how often it was sent. A retry means the job of an earlier
-- sending whose answer was lost: the newest that was sent fewer times, and that no other retry has taken. If there is none
-- it gets the new id, as does a request that was not sent before.
-- Arguments: owner, digest (of the request), sent_before (how often), id (new), remember (seconds). Returns the id.
-- include: base
local id, before, remember = args.id, args.sent_before, args.remember
local sendings = key('sendings:' .. args.owner .. ':' .. args.digest)
local function unheard(job) return key('unheard:' .. job) end

for _, forgotten in ipairs(redis.call('ZRANGEBYSCORE', sendings, '-inf', now - remember, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', sendings, forgotten)
end
local meant = id
for _, earlier in ipairs(before > 0 and redis.call('ZREVRANGE', sendings, 0, 999) or {}) do
  local sent, taker = string.match(redis.call('GET', unheard(earlier)) or '', '^(%d+) (.*)$')
  if taker == id then return earlier end  -- this script ran before, and its answer was lost
  if sent and tonumber(sent) < before and meant == id then meant = earlier end
end

if meant == id then
  redis.call('ZADD', sendings, now, id)
  redis.call('EXPIRE', sendings, remember)
end
redis.call('SET', unheard(meant), string.format('%d %s', before, id), 'EX', remember)
return meant
