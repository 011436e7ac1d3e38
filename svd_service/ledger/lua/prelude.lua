-- Before every script of the ledger: the names of keys, the one clock, and the steps that several scripts take.
-- KEYS[1] is the namespace. Keys and invariants: svd_service/ledger/__init__.py.
local namespace = KEYS[1]

-- One clock for all: Redis' own, in seconds, so that no host's clock decides about a lease.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
-- Lua's own tostring keeps 14 digits, too few for microseconds since 1970.
local now_text = string.format('%.6f', now)

local function key(name) return namespace .. ':' .. name end
local function job_key(id) return namespace .. ':job:' .. id end
local function field(id, name) return redis.call('HGET', job_key(id), name) end
local function set(id, ...) redis.call('HSET', job_key(id), ...) end

local function count(name, by) redis.call('HINCRBY', key('counters'), name, by or 1) end

-- Every visible change bumps the job's version and is told on the one channel, as "id version state owner".
local function announce(id)
  local version = redis.call('HINCRBY', job_key(id), 'version', 1)
  local said = redis.call('HMGET', job_key(id), 'state', 'owner')
  redis.call('PUBLISH', key('events'), table.concat({ id, version, said[1] or '', said[2] or '' }, ' '))
end

local function move(id, to)
  redis.call('HINCRBY', key('states'), field(id, 'state'), -1)
  redis.call('HINCRBY', key('states'), to, 1)
  set(id, 'state', to)
end

-- What the name of a route or a queue says: its model, and its profile or profiles with commas between ('': all).
local function parts_of(name) return string.match(name, '^(.*)|(.*)$') end

-- Each model has a queue of its own, since no worker holds two. Who of its workers may take a job, its route says:
-- "model|profile". routing.py has the words.
local function route_of(id)
  local route = field(id, 'route') or '|'
  return route, (parts_of(route))
end

-- How many jobs each of Celery's queues has that are `published` or `started`.
local function add_load(kind, queue, by)
  local name = kind .. '|' .. queue
  if redis.call('HINCRBY', key('loads'), name, by) == 0 then redis.call('HDEL', key('loads'), name) end
end
local function load_of(kind, queue) return tonumber(redis.call('HGET', key('loads'), kind .. '|' .. queue) or '0') end

local function clock(model) return tonumber(redis.call('GET', key('clock:' .. model)) or '0') end

-- Among the waiting, the one with the least tag is next.
local function wait_in_line(id, tag)
  local route, model = route_of(id)
  redis.call('ZADD', key('waiting:' .. model), tag, id)
  redis.call('ZADD', key('waiting:' .. route), tag, id)
end

local function leave_line(id)
  local route, model = route_of(id)
  redis.call('ZREM', key('waiting:' .. model), id)
  redis.call('ZREM', key('waiting:' .. route), id)
end

local function publish(id, queue)
  local _, model = route_of(id)
  leave_line(id)
  redis.call('ZADD', key('published:' .. model), now, id)
  set(id, 'queue', queue)
  add_load('published', queue, 1)
end

local function unpublish(id)
  local _, model = route_of(id)
  if redis.call('ZREM', key('published:' .. model), id) == 1 then
    add_load('published', field(id, 'queue'), -1)
    redis.call('HDEL', job_key(id), 'queue')
  end
end

local function enter_queue(id, tag)
  wait_in_line(id, tag)
  local added = redis.call('ZADD', key('queued:' .. route_of(id)), field(id, 'created'), id)
  redis.call('HINCRBY', key('queued_of'), field(id, 'owner'), added)
end

local function leave_queue(id)
  leave_line(id)
  unpublish(id)
  if redis.call('ZREM', key('queued:' .. route_of(id)), id) == 1 then
    local owner = field(id, 'owner')
    if redis.call('HINCRBY', key('queued_of'), owner, -1) < 1 then redis.call('HDEL', key('queued_of'), owner) end
  end
end

-- `cause` is why there is no result, where somebody or something is to blame for that.
local function close_attempt(id, outcome, cause)
  local number = field(id, 'attempt')
  set(id, 'ended:' .. number, now_text, 'outcome:' .. number, outcome)
  add_load('started', field(id, 'queue'), -1)
  redis.call('HDEL', job_key(id), 'token', 'queue', 'worker', 'claimed', 'phase', 'step', 'steps', 'told', 'preview_name')
  redis.call('ZREM', key('leases'), id)
  count('attempts|' .. outcome)
  if cause and cause ~= '' then count('causes|' .. outcome .. '|' .. cause) end
end

-- Webhooks. The move that ends a job also puts what is to be told of it into the outbox, so that no crash can part the
-- two; with a copy of the record, since that may be deleted before anybody has heard.
local function delivery_key(id) return namespace .. ':delivery:' .. id end
local function of_delivery(id, name) return redis.call('HGET', delivery_key(id), name) end

local function write_delivery(id, state)
  local url = field(id, 'webhook')
  if not url then return end
  local host = string.lower(string.gsub(string.match(url, '^%a+://([^/?#]*)') or '', '^.*@', ''))
  redis.call('HSET', delivery_key(id), 'state', 'pending', 'type', 'job.' .. state, 'url', url, 'host', host,
    'owner', field(id, 'owner'), 'created', now_text, 'next', now_text, 'tries', 0,
    'job', cjson.encode(redis.call('HGETALL', job_key(id))))
  redis.call('ZADD', key('outbox'), now, id)
end

local function close_try(id, outcome, code, message)
  local number = of_delivery(id, 'tries')
  redis.call('HSET', delivery_key(id), 'code:' .. number, code, 'error:' .. number, message)
  redis.call('HDEL', delivery_key(id), 'token')
  count('webhook_tries|' .. outcome)
end

local function try_again(id, pause)
  redis.call('ZREM', key('posted'), id)
  redis.call('ZADD', key('outbox'), now + pause, id)
  redis.call('HSET', delivery_key(id), 'next', string.format('%.6f', now + pause))
end

-- Nothing more is done for a delivery. What became of it is told as long as the job's record is there.
local function end_delivery(id, state)
  redis.call('ZREM', key('posted'), id)
  redis.call('HDEL', delivery_key(id), 'job')
  redis.call('HSET', delivery_key(id), 'state', state)
  count('webhooks|' .. state)
  if redis.call('EXISTS', job_key(id)) == 0 then redis.call('DEL', delivery_key(id)) end
end

local function end_job(id, state, keep)
  leave_queue(id)
  move(id, state)
  set(id, 'ended', now_text)
  if field(id, 'deleted') then keep = 0 end  -- nobody asks for it any more: retention takes it at its next round
  redis.call('ZADD', key('ended'), now + keep, id)
  count('ended|' .. state)
  announce(id)
  write_delivery(id, state)
end

local function fail_job(id, code, message, keep)
  set(id, 'failure_code', code, 'failure_message', message)
  count('failed|' .. code)
  end_job(id, 'failed', keep)
end

-- An attempt is over without a verdict: cancel what was to be cancelled, repeat what may be repeated, else fail.
local function repeat_or_end(id, max_attempts, code, message, keep)
  if field(id, 'cancel') then
    end_job(id, 'cancelled', keep)
  elseif tonumber(field(id, 'tries')) >= max_attempts then
    fail_job(id, code, message, keep)
  else
    move(id, 'queued')
    local _, model = route_of(id)
    enter_queue(id, clock(model) - 1)  -- it has waited already: before all others
    announce(id)
  end
end

-- Workers and house-keeping are heard at least every two seconds. Longer than this, and nobody could be: Redis was down
-- or frozen, or everybody else was. What goes beyond counts for no lease. A lease is not judged before this has run.
local longest_silence = 3
local function hear()
  local missed = now - tonumber(redis.call('GET', key('heard')) or now_text) - longest_silence
  redis.call('SET', key('heard'), now_text)
  if missed <= 0 then return end
  for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do redis.call('ZINCRBY', key('leases'), missed, id) end
end

-- Whether `token` is the claim that the job is held under now.
local function holds(id, token) return field(id, 'state') == 'started' and field(id, 'token') == token end

-- The Celery queues that live workers take jobs from, each with the number of those workers.
local function queues_at_work(max_age)
  local at_work = {}
  for _, queue in ipairs(redis.call('ZRANGEBYSCORE', key('queues'), now - max_age, '+inf')) do
    local workers = redis.call('ZCOUNT', key('workers:' .. queue), now - max_age, '+inf')
    if workers > 0 then at_work[queue] = workers end
  end
  return at_work
end

local function leave_work(name)
  local queue = redis.call('HGET', key('worker_queue'), name)
  redis.call('ZREM', key('workers'), name)
  if queue and redis.call('ZREM', key('workers:' .. queue), name) == 1 then
    if redis.call('EXISTS', key('workers:' .. queue)) == 0 then redis.call('ZREM', key('queues'), queue) end
  end
end

local function takes(queue, route)
  local model, profiles = parts_of(queue)
  local of, profile = parts_of(route)
  return of == model and (profiles == '' or string.find(',' .. profiles .. ',', ',' .. profile .. ',', 1, true) ~= nil)
end

-- Whether a job's result may be had by another job of its owner: it is there, and wanted.
local function is_reusable(id, owner)
  if field(id, 'state') ~= 'finished' or field(id, 'deleted') or field(id, 'owner') ~= owner then return false end
  return tonumber(field(id, 'expires')) > now
end

-- Where the jobs of an owner are found that made the same video: by the kind of device that made it.
local function content_key(owner, content) return key('content:' .. owner .. ':' .. content) end

local function remember_content(id, device, keep)
  local content = field(id, 'content')
  if not content then return end
  local known = content_key(field(id, 'owner'), content)
  redis.call('HSET', known, device, id)
  redis.call('PEXPIRE', known, math.ceil(keep * 1000))
end

-- The record goes; whoever listens is told with a last version, since there is nothing left to look up. A webhook that
-- is still to be delivered outlives it.
local function forget(id)
  local owner = field(id, 'owner')
  announce(id)
  redis.call('HINCRBY', key('states'), field(id, 'state'), -1)
  redis.call('ZREM', key('ended'), id)
  redis.call('ZREM', key('owner:' .. owner), id)
  redis.call('DEL', job_key(id))
  if of_delivery(id, 'state') ~= 'pending' then redis.call('DEL', delivery_key(id)) end
end
