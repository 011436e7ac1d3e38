-- Publish the one result. ARGV: id, token, result as JSON, seconds to keep it, device, seconds of each measured phase as
-- JSON (0 if unknown), '1' if other jobs may have a copy of the result, then counters to add as name, amount, … Answers 'ok' or 'stale'. A cancel that came too late is void: the result is there.
local id, token = ARGV[1], ARGV[2]

-- How much of what was learned before a job still counts after it: about ten jobs are remembered.
local MEMORY = 0.9

-- A line through the logarithms of sizes and seconds, one point further (West 1979, with weights that fade).
local function with_point(line, size, seconds)
  local x, y = math.log(size), math.log(seconds)
  local weight, mean_x, mean_y, squares, products = unpack(line)
  if not weight then return { 1, x, y, 0, 0 } end
  weight = weight * MEMORY + 1
  local dx = x - mean_x
  mean_x, mean_y = mean_x + dx / weight, mean_y + (y - mean_y) / weight
  return { weight, mean_x, mean_y, squares * MEMORY + dx * (x - mean_x), products * MEMORY + dx * (y - mean_y) }
end

-- What the attempt teaches of its device (pace.py tells how it is used). The last phase is what the others leave of
-- the time since the claim.
local function learn(device, seconds)
  local work = field(id, 'work')
  if not work then return end
  work = cjson.decode(work)
  local left = now - tonumber(field(id, 'began:' .. field(id, 'attempt')))
  for _, one in ipairs(seconds) do left = left - one end
  seconds[#work] = math.max(left, 0.001)
  local name = (cjson.decode(field(id, 'model')).name or '') .. '|' .. device
  local lines = cjson.decode(redis.call('HGET', key('paces'), name) or '[[],[],[],[]]')
  for i, part in ipairs(work) do
    if seconds[i] > 0 then lines[i] = with_point(lines[i], part[1], seconds[i] / part[2]) end
  end
  redis.call('HSET', key('paces'), name, cjson.encode(lines))
end

if not holds(id, token) then
  return field(id, 'state') == 'finished' and field(id, 'last_token') == token and 'ok' or 'stale'
end
local keep = tonumber(ARGV[4])
learn(ARGV[5], cjson.decode(ARGV[6]))
close_attempt(id, 'finished')
set(id, 'last_token', token)
redis.call('HDEL', job_key(id), 'cancel')
set(id, 'result', ARGV[3], 'expires', string.format('%.6f', now + keep))
if ARGV[7] == '1' then remember_content(id, ARGV[5], keep) end
for i = 8, #ARGV, 2 do redis.call('HINCRBYFLOAT', key('counters'), ARGV[i], ARGV[i + 1]) end
end_job(id, 'finished', keep)
return 'ok'
