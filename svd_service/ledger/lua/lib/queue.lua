-- Queued jobs: waiting in the ledger by fair-queueing tag, or enqueued with Celery.
-- include: base, routes, loads

-- Virtual time of a model's queue.
local function clock(model) return tonumber(redis.call('GET', key('clock:' .. model)) or '0') or 0 end

-- The waiting job with the lowest tag is next.
local function wait(id, tag)
  local route, model = route_of(id)
  redis.call('ZADD', key('waiting:' .. model), tag, id)
  redis.call('ZADD', key('waiting:' .. route), tag, id)
end

local function stop_waiting(id)
  local route, model = route_of(id)
  redis.call('ZREM', key('waiting:' .. model), id)
  redis.call('ZREM', key('waiting:' .. route), id)
end

-- A tag behind all waiting jobs.
local function last_tag(model)
  local last = redis.call('ZRANGE', key('waiting:' .. model), -1, -1, 'WITHSCORES')
  return math.max(clock(model), last[2] and tonumber(last[2]) + 1 or 0)
end

local function enqueue(id, queue)
  local _, model = route_of(id)
  stop_waiting(id)
  redis.call('ZADD', key(ENQUEUED .. ':' .. model), now, id)
  set(id, 'queue', queue)
  redis.call('HSETNX', job_key(id), 'enqueued', now_text)
  redis.call('HDEL', job_key(id), 'slotless')  -- left by damage, it would keep `withdraw` from reducing the load again
  add_load(ENQUEUED, queue, 1)
end

-- An enqueued job whose message was rejected no longer counts against its queue's room, so that others are enqueued.
local function free_slot(id, queue)
  if redis.call('HSETNX', job_key(id), 'slotless', 1) == 1 then add_load(ENQUEUED, queue, -1) end
end

local function withdraw(id)
  local _, model = route_of(id)
  if redis.call('ZREM', key(ENQUEUED .. ':' .. model), id) == 1 then
    local queue = field(id, 'queue')
    if queue and not field(id, 'slotless') then add_load(ENQUEUED, queue, -1) end
    redis.call('HDEL', job_key(id), 'queue', 'slotless')
  end
end

local function enter_queue(id, tag)
  wait(id, tag)
  local added = redis.call('ZADD', key('queued:' .. route_of(id)), field(id, 'created'), id)
  redis.call('HINCRBY', key('queued_of'), field(id, 'owner'), added)
end

local function leave_queue(id)
  stop_waiting(id)
  withdraw(id)
  redis.call('HDEL', job_key(id), UNCLAIMED)
  if redis.call('ZREM', key('queued:' .. route_of(id)), id) == 1 then
    local owner = field(id, 'owner')
    if redis.call('HINCRBY', key('queued_of'), owner, -1) < 1 then redis.call('HDEL', key('queued_of'), owner) end
  end
end
