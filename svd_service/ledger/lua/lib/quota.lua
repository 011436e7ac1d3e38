-- Quotas of an owner, by UTC day and calendar month.
-- include: base, usage

-- The day of the month, from 1, of a number of days since 1970 (Hinnant, "chrono-compatible low-level date algorithms").
local function day_of_month(day)
  local floor = math.floor
  local of_era = (day + 719468) % 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
  return of_year - floor((153 * floor((5 * of_year + 2) / 153) + 2) / 5) + 1
end

-- The sum of a metric over all models, from a day to today.
local function used_since(owner, first, metric)
  local sum = 0
  for day = first, today() do
    local record = redis.call('HGETALL', usage_key(owner, day))
    for i = 1, #record, 2 do
      if string.match(record[i], '[^|]*$') == metric then sum = sum + (tonumber(record[i + 1]) or 0) end
    end
  end
  return sum
end

-- How many jobs of the owner have not ended, and the id of one that is started, or ''. A lease is a busy worker process:
-- there are few.
local function unended(owner)
  local number, started = tonumber(redis.call('HGET', key('queued_of'), owner) or '0') or 0, ''
  for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, 999)) do
    if field(id, 'owner') == owner then number, started = number + 1, started == '' and id or started end
  end
  return number, started
end

-- The first quota that leaves no room for `number` more jobs: {its name, seconds until it is renewed, id of a started job}; the
-- seconds are '' for the number of jobs at a time. Nothing if there is room.
local function exceeded_quota(owner, quotas, number, has_copy)
  local day = today()
  local month = day - day_of_month(day) + 1
  local next_month = month + 31 - day_of_month(month + 31) + 1
  local function full(name, used, needed, renewed)
    if quotas[name] and used() + needed > quotas[name] then return { name, as_text(renewed * DAY - now), '' } end
  end
  local found = full('jobs_per_day', function() return used_since(owner, day, 'submitted') end, number, day + 1)
  if found or has_copy then return found end
  found = full('device_ms_per_day', function() return used_since(owner, day, 'device_ms') end, 1, day + 1)
    or full('device_ms_per_month', function() return used_since(owner, month, 'device_ms') end, 1, next_month)
  if found or not quotas.concurrent_jobs then return found end
  local present, started = unended(owner)
  if present + number > quotas.concurrent_jobs then return { 'concurrent_jobs', '', started } end
end
