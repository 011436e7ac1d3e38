-- Accepting jobs: idempotency keys, pauses, quotas, the queue's limits, new records.
-- include: base, routes, queue, notify, group, usage, quota, paused

-- The answer to a submission whose `Idempotency-Key` was used before: {'repeated' or 'conflict', id of the job or
-- group}. One that was deleted in the meantime frees its key.
local function earlier_answer(owner, idempotency_key, fingerprint)
  if idempotency_key == '' then return nil end
  local earlier = redis.call('HMGET', key('idempotency:' .. owner .. ':' .. idempotency_key), 'id', 'fingerprint')
  local id = earlier[1]
  if not id then return nil end
  local exists = redis.call('EXISTS', job_key(id)) == 1 and not field(id, 'deleted')
  if not exists and redis.call('EXISTS', group_key(id)) == 0 then return nil end
  return { earlier[2] == fingerprint and 'repeated' or 'conflict', id }
end

local function remember_key(owner, idempotency_key, fingerprint, id, ttl)
  if idempotency_key == '' then return end
  local idempotency = key('idempotency:' .. owner .. ':' .. idempotency_key)
  redis.call('HSET', idempotency, 'id', id, 'fingerprint', fingerprint)
  redis.call('EXPIRE', idempotency, math.ceil(ttl))
end

-- Why the queue cannot take `number` more jobs of an owner: 'full', 'owner_full', or nil.
local function lack_of_room(owner, number, max_queued, max_queued_of_owner)
  local function stored(hash, name) return tonumber(redis.call('HGET', key(hash), name) or '0') or 0 end
  if stored('states', 'queued') + number > max_queued then return 'full' end
  if owner ~= '' and stored('queued_of', owner) + number > max_queued_of_owner then return 'owner_full' end
end

-- Why `number` new jobs of `route` are not accepted: {'paused', the pause}, {'quota', what exceeded_quota returns},
-- {'full' | 'owner_full' | 'late', id}, or nil. Jobs with a copy of an earlier video (`has_copy`) take no place in the
-- queue. The limits are those in the script's arguments.
local function rejection(number, route, has_copy)
  local pause = pause_of('intake', (parts_of(route)))
  if pause then return { 'paused', pause } end
  local exceeded = args.quotas and exceeded_quota(args.owner, args.quotas, number, has_copy)
  if exceeded then return { 'quota', exceeded } end
  if has_copy then return nil end
  local full = lack_of_room(args.owner, number, args.max_queued, args.max_queued_of_owner)
  if full then return { full, args.id } end
  if args.late then return { 'late', args.id } end
end

-- Write the record of a new job. `fields`: of the job hash, name → value; `created`: when, in seconds.
local function create_job(id, owner, priority, fields, created)
  set(id, 'state', 'queued', 'owner', owner, 'created', as_text(created), 'attempt', 0, ATTEMPTS, 0, 'version', 0,
    'priority', priority)
  local given = {}
  for name, value in pairs(fields) do
    given[#given + 1] = name
    given[#given + 1] = value
  end
  set(id, unpack(given))
  redis.call('HINCRBY', key('states'), 'queued', 1)
  redis.call('ZADD', key('owner:' .. owner), created, id)
  redis.call('ZADD', key('jobs'), created, id)
  local _, model = route_of(id)
  redis.call('ZADD', key('models'), now, model)
  count('created')
  add_usage(id, 'submitted', 1)
end

-- Start-time fair queueing (Goyal, Vin, Cheng 1996): an owner's next job is tagged where its last one ended, but not
-- before the present, so that a thousand jobs of one owner queue behind the first of another. Each priority is a flow
-- of its own, so that an urgent job does not queue behind the same owner's others; a step up has four times the share.
local function queue_job(id, owner, priority, cancel_after)
  local flow = owner .. '|' .. priority
  local _, model = route_of(id)
  local finish_tags = key('finish_tags:' .. model)
  local tag = math.max(clock(model), tonumber(redis.call('HGET', finish_tags, flow) or '0') or 0)
  redis.call('HSET', finish_tags, flow, tag + PRIORITY_SHARE ^ -priority)
  enter_queue(id, tag)
  if cancel_after then
    set(id, 'deadline', as_text(now + cancel_after))
    redis.call('ZADD', key('deadlines'), now + cancel_after, id)
  end
  notify(id)
end
