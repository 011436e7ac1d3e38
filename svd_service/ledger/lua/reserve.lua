-- Which id the job of a request gets whose caller counts how often it was sent. ARGV: owner, digest of the request, how
-- often it was sent before, an id that is new, seconds to remember all this.
-- A request that is sent again means the job of an earlier sending whose answer nobody has heard: the newest such one
-- that was sent less often, and that no other repetition has taken. Where there is none it gets the new id, as does a
-- request that was not sent before.
local owner, digest, before, id, remember = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local sendings = key('sendings:' .. owner .. ':' .. digest)
local function unheard(job) return key('unheard:' .. job) end

for _, forgotten in ipairs(redis.call('ZRANGEBYSCORE', sendings, '-inf', now - remember)) do
  redis.call('ZREM', sendings, forgotten)
end
local meant = id
for _, earlier in ipairs(before > 0 and redis.call('ZREVRANGE', sendings, 0, -1) or {}) do
  local sent, taker = string.match(redis.call('GET', unheard(earlier)) or '', '^(%d+) (.*)$')
  if taker == id then return earlier end  -- this script was run before, and its answer lost
  if sent and tonumber(sent) < before and meant == id then meant = earlier end
end

if meant == id then
  redis.call('ZADD', sendings, now, id)
  redis.call('EXPIRE', sendings, remember)
end
redis.call('SET', unheard(meant), string.format('%d %s', before, id), 'EX', remember)
return meant
