-- The throughput model of a device (used in jobs/eta.py), updated by finished attempts.
-- include: base

-- Decay of the earlier jobs' weight with each new one: about ten jobs count.
local MEMORY = 0.9

-- A line through the logarithms of sizes and seconds, with one more point (West 1979, with decaying weights).
local function with_point(line, size, seconds)
  local x, y = math.log(size), math.log(seconds)
  local weight, mean_x, mean_y, squares, products = unpack(line)
  if not products then return { 1, x, y, 0, 0 } end
  weight = weight * MEMORY + 1
  local dx = x - mean_x
  mean_x, mean_y = mean_x + dx / weight, mean_y + (y - mean_y) / weight
  return { weight, mean_x, mean_y, squares * MEMORY + dx * (x - mean_x), products * MEMORY + dx * (y - mean_y) }
end

-- `known` by phase; a record of a version before interpolation lacks that phase.
local function with_every_phase(known, missing)
  if #known == 4 then table.insert(known, 4, missing) end
  return known
end

-- The last phase is the time since the claim minus the measured phases.
local function learn(id, device, seconds)
  local work = with_every_phase(decoded(field(id, 'workload') or field(id, 'work'), {}), { 1, 0 })
  local began = tonumber(field(id, 'began:' .. field(id, 'attempt')) or '')
  if #work == 0 or not began then return end
  local left = now - began
  for _, one in ipairs(seconds) do left = left - one end
  seconds[#work] = math.max(left, 0.001)
  local name = (decoded(field(id, 'model'), {}).name or '') .. '|' .. device
  local lines = with_every_phase(decoded(redis.call('HGET', key('throughput'), name), {}), {})
  for i, part in ipairs(work) do
    lines[i] = type(lines[i]) == 'table' and lines[i] or {}
    if (seconds[i] or 0) > 0 and part[2] > 0 then lines[i] = with_point(lines[i], part[1], seconds[i] / part[2]) end
  end
  redis.call('HSET', key('throughput'), name, cjson.encode(lines))
end
