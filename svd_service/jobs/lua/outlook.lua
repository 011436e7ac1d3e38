-- What the time to come can be told by (pace.py reads it). ARGV: seconds after which a silent worker does not count, how
-- many places of the queue matter. Answers JSON. However long the queue is, it costs O(log² n): of the jobs further off,
-- one in every so many is looked at, ever fewer.
local busy = {}
for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, 255)) do
  local said = redis.call('HMGET', job_key(id), 'work', 'phase', 'step', 'steps', 'attempt', 'told')
  local held = redis.call('HMGET', job_key(id), 'held:' .. said[5], 'began:' .. said[5])
  if said[1] then
    busy[cjson.decode(held[1]).worker] = {
      work = said[1], phase = said[2] or '', step = said[3] or '0', steps = said[4] or '0',
      elapsed = now - tonumber(held[2]), silence = now - tonumber(said[6] or held[2]),
    }
  end
end

local runners = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('workers'), now - tonumber(ARGV[1]), '+inf')) do
  local status = cjson.decode(redis.call('HGET', key('worker_status'), name) or '{}')
  local runner = busy[name] or {}
  runner.device, runner.model = status.device or '', status.model or ''
  runners[#runners + 1] = runner
end

local queue = {}
local published = redis.call('ZCARD', key('published'))
local places = math.min(tonumber(ARGV[2]), published + redis.call('ZCARD', key('waiting')))
local place = 0
while place < places do
  local set, rank = key('published'), place
  if place >= published then set, rank = key('waiting'), place - published end
  local work = field(redis.call('ZRANGE', set, rank, rank)[1], 'work')
  if work then queue[#queue + 1] = { place, work } end
  place = place + math.max(1, math.floor(place / 16))
end

local paces = {}
local learned = redis.call('HGETALL', key('paces'))
for i = 1, #learned, 2 do paces[learned[i]] = learned[i + 1] end
return cjson.encode({ runners = runners, queue = queue, paces = paces })
