-- Histograms of seconds among the counters: the number of values in each bucket, and their sum (`histograms.py`).
-- include: base

-- Add the time since the job was accepted. `labels`: values that the service itself sets, with `|` between them; never a
-- caller's text. The bounds are text, since every script that includes this would pay for a table.
local function observe(name, id, labels)
  local seconds = math.max(now - (tonumber(field(id, 'created') or '') or now), 0)
  local bucket = '+Inf'
  for bound in string.gmatch(JOB_BOUNDS, '%S+') do
    if seconds <= tonumber(bound) then
      bucket = bound
      break
    end
  end
  count(name .. '_bucket|' .. labels .. '|' .. bucket)
  redis.pcall('HINCRBYFLOAT', key('counters'), name .. '_seconds|' .. labels, string.format('%.3f', seconds))
end
