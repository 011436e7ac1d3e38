-- Count a request against a limit. ARGV: who, most requests in a window, the window in seconds. Answers '0' when it is
-- within the limit, else the seconds after which the next one will be. What is refused is not counted; one that is
-- repeated after a lost answer is counted twice, which costs nobody much.
-- The window slides: of the one before, the part counts that the present one has not passed yet.
local limit, window = tonumber(ARGV[2]), tonumber(ARGV[3])
local number = math.floor(now / window)
local passed = now / window - number
local present = key('rate:' .. ARGV[1] .. ':' .. number)
local here = tonumber(redis.call('GET', present) or '0')
local before = tonumber(redis.call('GET', key('rate:' .. ARGV[1] .. ':' .. (number - 1))) or '0')

if here + before * (1 - passed) + 1 <= limit then
  redis.call('INCR', present)
  redis.call('EXPIRE', present, 2 * window)
  return '0'
end
local ready
if here < limit then
  ready = 1 - (limit - 1 - here) / before
else
  ready = 2 - (limit - 1) / here
end
return tostring((ready - passed) * window)
