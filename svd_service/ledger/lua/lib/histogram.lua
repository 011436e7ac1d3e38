-- Histograms of seconds among the counters: the number of values in each bucket, and their sum (`histograms.py`).
-- include: base

-- `labels`: values that the service itself sets, with `|` between them; never a caller's text.
local function observe(name, bounds, labels, seconds)
  local bucket = '+Inf'
  for _, bound in ipairs(bounds) do
    if seconds <= bound then
      bucket = tostring(bound)
      break
    end
  end
  count(name .. '_bucket|' .. labels .. '|' .. bucket)
  redis.pcall('HINCRBYFLOAT', key('counters'), name .. '_seconds|' .. labels, string.format('%.3f', seconds))
end

-- Seconds since the job was accepted.
local function age_of(id) return math.max(now - (tonumber(field(id, 'created') or '') or now), 0) end
