-- Data for estimates of a model's queue (jobs/eta.py computes them). It costs O(log² n) at most for a queue of n jobs: the
-- jobs further back are sampled, ever more sparsely.
-- Arguments: model, worker_timeout (seconds without heartbeat), places (number of places in the queue to cover).
-- Returns {JSON of workers and first jobs, JSON of the jobs further back, throughput models as name, value, …}.
-- include: base, routes, paused
local model = args.model
local alive = now - args.worker_timeout

local function busy_workers()
  local busy = {}
  for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, 255)) do
    local job = redis.pcall('HMGET', job_key(id), 'worker', 'workload', 'claimed', REPORTED, 'phase', 'step', 'steps',
      'segment', 'segments', 'work')
    local claimed, work = tonumber(job[3] or ''), job[2] or job[10]
    if job[1] and work and claimed then
      busy[job[1]] = {
        work = work, elapsed = now - claimed, silence = now - (tonumber(job[4] or '') or claimed),
        progress = job[5] and { job[5], job[6] or '0', job[7] or '0', job[8] or '1', job[9] or '1' } or nil,
      }
    end
  end
  return busy
end

local function runners()
  local busy, found = busy_workers(), {}
  for _, queue in ipairs(redis.call('ZRANGEBYSCORE', key('queues'), alive, '+inf')) do
    local of, profiles = parts_of(queue)
    local names = of == model and redis.call('ZRANGEBYSCORE', key('workers:' .. queue), alive, '+inf', 'LIMIT', 0, 5000) or {}
    local devices = #names > 0 and redis.call('HMGET', key('worker_device'), unpack(names)) or {}
    for i, name in ipairs(names) do
      local runner = busy[name] or {}
      runner.device, runner.profiles = devices[i] or '', profiles
      found[#found + 1] = runner
    end
  end
  return found
end

local enqueued = redis.call('ZCARD', key(ENQUEUED .. ':' .. model))
local length = enqueued + redis.call('ZCARD', key('waiting:' .. model))

-- Work and profile of the job at a place.
local function work_at(place)
  local line, rank = key(ENQUEUED .. ':' .. model), place
  if place >= enqueued then line, rank = key('waiting:' .. model), place - enqueued end
  local id = redis.call('ZRANGE', line, rank, rank)[1]
  local job = id and redis.pcall('HMGET', job_key(id), 'workload', 'route', 'work') or {}
  local work = job[1] or job[3]
  if work then return work, select(2, parts_of(job[2] or '|')) or '' end
end

local NEAR, CACHED = 8, 2
local places = math.min(args.places, length)
local queue = {}
for place = 0, math.min(places, NEAR) - 1 do
  local work, profile = work_at(place)
  if work then queue[#queue + 1] = { place, work, profile } end
end

local function sample_far()
  local works, index_of, entries, place, last = {}, {}, {}, NEAR, nil
  while place < length do
    local work, profile = work_at(place)
    local both = work and work .. profile
    if work and both ~= last then  -- each stands for all jobs up to the next
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

-- The sample is cached briefly for all callers, unless the queue's length has changed, so that any number of estimates for
-- a long queue cost one. Where Redis accepts no writes, it is not cached.
local far = '{"works":[],"queue":[]}'
if places > NEAR then
  local kept = redis.call('HMGET', key('queue_sample:' .. model), 'at', 'length', 'estimate')
  local at, then_length = tonumber(kept[1] or ''), tonumber(kept[2] or '')
  if at and then_length and kept[3] and math.abs(now - at) < CACHED and math.abs(length - then_length) * 16 <= length then
    far = kept[3]
  else
    far = sample_far()
    redis.pcall('HSET', key('queue_sample:' .. model), 'at', now_text, 'length', length, 'estimate', far)
    redis.pcall('EXPIRE', key('queue_sample:' .. model), CACHED)
  end
end
-- It is unknown when a paused dispatch will be resumed.
local available = pause_of('dispatch', model) and {} or runners()
return { cjson.encode({ runners = available, queue = queue }), far, redis.call('HGETALL', key('throughput')) }
