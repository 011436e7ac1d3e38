-- Usage by owner, UTC day and model, written by the scripts that accept jobs and end attempts and jobs, so that no crash
-- loses it or counts it twice. Amounts are whole numbers (device time in milliseconds): their sums are exact.
-- include: base, routes

local DAY = 86400
local function today() return math.floor(now / DAY) end
local function usage_key(owner, day) return key('usage:' .. owner .. ':' .. day) end

-- The owner's name in the totals, which are never deleted: the first MAX_USAGE_OWNERS owners have one of their own.
local function total_of(owner)
  local known = key('usage_owners')
  if redis.call('SISMEMBER', known, owner) == 1 then return owner end
  if redis.call('SCARD', known) >= MAX_USAGE_OWNERS then return 'other' end
  redis.call('SADD', known, owner)
  return owner
end

-- `...`: pairs of a metric and the amount to add.
local function add_usage(id, ...)
  local owner, _, model = field(id, 'owner'), route_of(id)
  local day, total = usage_key(owner, today()), total_of(owner)
  local pairs_of = { ... }
  for i = 1, #pairs_of, 2 do
    increment(day, model .. '|' .. pairs_of[i], pairs_of[i + 1])
    increment(key('usage_totals'), total .. '|' .. pairs_of[i], pairs_of[i + 1])
  end
  redis.call('EXPIRE', day, USAGE_DAYS * DAY)
end

-- The device time of an attempt. With a result it is the sum of the measured phases; otherwise the time since the claim, or
-- of a lost attempt until its last report. Attempts that the service failed are counted apart from those with a result and
-- those that the caller cancelled.
local function add_device_time(id, outcome, measured)
  local number = field(id, 'attempt')
  local began = tonumber(field(id, 'began:' .. number) or '') or now
  local last = outcome == 'lost' and (tonumber(field(id, REPORTED) or '') or began) or now
  local milliseconds = math.floor(1000 * (measured or math.max(last - began, 0)) + 0.5)
  local is_charged = outcome == 'finished' or outcome == 'cancelled'
  set(id, 'used:' .. number, milliseconds)
  add_usage(id, is_charged and 'device_ms' or 'failed_device_ms', milliseconds)
end
