-- What the time to come can be told by (pace.py reads it). ARGV: seconds after which a silent worker does not count, how
-- many places of the queue matter, name of the model whose queue it is. Answers {JSON, JSON of the jobs further off}.
-- However long the queue is, it costs O(log² n) at most: of the jobs further off, one in every so many is looked at, ever
-- fewer.
local model = ARGV[3]
local busy = {}
for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, 255)) do
  local said = redis.call('HMGET', job_key(id), 'worker', 'work', 'phase', 'step', 'steps', 'told', 'claimed')
  if said[2] then
    busy[said[1]] = {
      work = said[2], phase = said[3] or '', step = said[4] or '0', steps = said[5] or '0',
      elapsed = now - tonumber(said[7]), silence = now - tonumber(said[6] or said[7]),
    }
  end
end

local runners = {}
local alive = now - tonumber(ARGV[1])
for _, queue in ipairs(redis.call('ZRANGEBYSCORE', key('queues'), alive, '+inf')) do
  local of, profiles = parts_of(queue)
  local names = of == model and redis.call('ZRANGEBYSCORE', key('workers:' .. queue), alive, '+inf') or {}
  local devices = #names > 0 and redis.call('HMGET', key('worker_device'), unpack(names)) or {}
  for i, name in ipairs(names) do
    local runner = busy[name] or {}
    runner.device, runner.profiles = devices[i] or '', profiles
    runners[#runners + 1] = runner
  end
end

local published = redis.call('ZCARD', key('published:' .. model))
local length = published + redis.call('ZCARD', key('waiting:' .. model))

-- What there is to do for the job at a place, and under which profile.
local function work_at(place)
  local line, rank = key('published:' .. model), place
  if place >= published then line, rank = key('waiting:' .. model), place - published end
  local said = redis.call('HMGET', job_key(redis.call('ZRANGE', line, rank, rank)[1]), 'work', 'route')
  if said[1] then return said[1], select(2, parts_of(said[2] or '|')) end
end

-- The first jobs one by one. What is said of those behind them serves everybody for a moment, unless the queue has
-- changed its length: all that ask a long queue, one after the other, cost one look at it.
local near, moment = 8, 2
local places = math.min(tonumber(ARGV[2]), length)
local queue = {}
for place = 0, math.min(places, near) - 1 do
  local work, profile = work_at(place)
  if work then queue[#queue + 1] = { place, work, profile } end
end

local function look_afar()
  local works, index_of, entries, place, last = {}, {}, {}, near, nil
  while place < length do
    local work, profile = work_at(place)
    local both = work and work .. profile
    if work and both ~= last then  -- each stands for all up to the next
      if not index_of[both] then
        works[#works + 1] = { work, profile }
        index_of[both] = #works
      end
      entries[#entries + 1] = { place, index_of[both] - 1 }
      last = both
    end
    place = place + math.max(1, math.floor(place / 16))
  end
  return cjson.encode({ works = works, queue = entries })
end

local far = '{"works":[],"queue":[]}'
if places > near then
  local kept = redis.call('HMGET', key('far:' .. model), 'at', 'length', 'told')
  local fresh = kept[1] and math.abs(now - tonumber(kept[1])) < moment
  if fresh and math.abs(length - tonumber(kept[2])) * 16 <= length then
    far = kept[3]
  else
    far = look_afar()
    redis.call('HSET', key('far:' .. model), 'at', now_text, 'length', length, 'told', far)
    redis.call('EXPIRE', key('far:' .. model), moment)
  end
end

local paces = {}
local learned = redis.call('HGETALL', key('paces'))
for i = 1, #learned, 2 do paces[learned[i]] = learned[i + 1] end
return { cjson.encode({ runners = runners, queue = queue, paces = paces }), far }
