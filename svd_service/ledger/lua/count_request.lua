-- Count requests against a limit. The window slides: the previous window counts in proportion to the rest of the
-- current one. A rejected one is not counted; one that is repeated after a lost answer is counted twice.
-- Arguments: caller, number (of requests), limit (of them in a window, at least `number`), window (seconds).
-- Returns '0' when they are within the limit, else the seconds after which they will be.
-- include: base
-- flags: allow-oom
local limit, window, added = args.limit, args.window, args.number
local number = math.floor(now / window)
local passed = now / window - number
local current = key('rate:' .. args.caller .. ':' .. number)
local here = tonumber(redis.call('GET', current) or '0') or 0
local before = tonumber(redis.call('GET', key('rate:' .. args.caller .. ':' .. (number - 1))) or '0') or 0

if here + before * (1 - passed) + added <= limit then
  redis.call('SET', current, here + added, 'EX', 2 * window)
  return '0'
end
local ready
if here + added <= limit then
  ready = 1 - (limit - added - here) / before
else
  ready = 2 - (limit - added) / here
end
return tostring((ready - passed) * window)
