-- Count a request against a limit. The window slides: the previous window counts in proportion to the rest of the
-- current one. A rejected request is not counted; one that is repeated after a lost answer is counted twice.
-- Arguments: caller, limit (requests in a window), window (seconds).
-- Returns '0' when it is within the limit, else the seconds after which the next one will be.
-- include: base
-- flags: allow-oom
local limit, window = args.limit, args.window
local number = math.floor(now / window)
local passed = now / window - number
local current = key('rate:' .. args.caller .. ':' .. number)
local here = tonumber(redis.call('GET', current) or '0') or 0
local before = tonumber(redis.call('GET', key('rate:' .. args.caller .. ':' .. (number - 1))) or '0') or 0

if here + before * (1 - passed) + 1 <= limit then
  redis.call('SET', current, here + 1, 'EX', 2 * window)
  return '0'
end
local ready
if here < limit then
  ready = 1 - (limit - 1 - here) / before
else
  ready = 2 - (limit - 1) / here
end
return tostring((ready - passed) * window)
