-- Figures of the last two days, in periods of ten minutes: ends of jobs by state and failures by cause, and the greatest
-- age of a queued job in seconds. For the operator's page.
-- include: base

local PERIOD, KEPT = 600, 172800

local history = key('history:' .. math.floor(now / PERIOD))

local function add_to_history(name)
  increment(history, name, 1)
  redis.call('EXPIRE', history, KEPT)
end

local function record_queue_age(oldest)
  if oldest > (tonumber(redis.call('HGET', history, 'queue_age') or '') or -1) then
    redis.call('HSET', history, 'queue_age', string.format('%.1f', oldest))
    redis.call('EXPIRE', history, KEPT)
  end
end
