-- Accept a job. Repeating it with one id changes nothing.
-- Arguments: id, owner, priority, fields (of the job hash, name → value), max_queued, max_queued_of_owner (except for
-- owner '', which all callers without a key share), quotas (of the owner, name → limit), result_ttl (seconds);
-- idempotency_key (or ''), fingerprint, idempotency_ttl (seconds);
-- cancel_after (seconds from now to its deadline, if it has one), late (whether it is rejected because of that);
-- looked_up (whether the content cache was consulted), cached (nothing, or id of the earlier job, result as JSON, device).
-- Returns {'created' | 'repeated' | 'conflict' | 'full' | 'owner_full' | 'late', id}, {'quota', what exceeded_quota
-- returns} or {'paused', the pause}.
-- include: routes, queue, notify, ending, content, usage, quota, paused
local id, owner, cached = args.id, args.owner, args.cached
if redis.call('EXISTS', job_key(id)) == 1 then return { 'repeated', id } end

local idempotency = key('idempotency:' .. owner .. ':' .. args.idempotency_key)
if args.idempotency_key ~= '' then
  local earlier = redis.call('HMGET', idempotency, 'id', 'fingerprint')
  -- A job that was deleted in the meantime frees its key.
  if earlier[1] and redis.call('EXISTS', job_key(earlier[1])) == 1 and not field(earlier[1], 'deleted') then
    return { earlier[2] == args.fingerprint and 'repeated' or 'conflict', earlier[1] }
  end
end

local pause = pause_of('intake', (parts_of(args.fields.route)))
if pause then return { 'paused', pause } end

-- Since the lookup, the earlier job may have been deleted or may have expired.
local has_copy = cached and is_reusable(cached.id, owner)
local exceeded = args.quotas and exceeded_quota(owner, args.quotas, has_copy)
if exceeded then return { 'quota', exceeded } end
if not has_copy then
  local function number(hash, name) return tonumber(redis.call('HGET', key(hash), name) or '0') or 0 end
  if number('states', 'queued') >= args.max_queued then return { 'full', id } end
  if owner ~= '' and number('queued_of', owner) >= args.max_queued_of_owner then return { 'owner_full', id } end
  if args.late then return { 'late', id } end
end
if args.looked_up then count('cache|' .. (has_copy and 'hit' or 'miss')) end

if args.idempotency_key ~= '' then
  redis.call('HSET', idempotency, 'id', id, 'fingerprint', args.fingerprint)
  redis.call('EXPIRE', idempotency, args.idempotency_ttl)
end

set(id, 'state', 'queued', 'owner', owner, 'created', now_text, 'attempt', 0, ATTEMPTS, 0, 'version', 0,
  'priority', args.priority)
local fields = {}
for name, value in pairs(args.fields) do
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
set(id, unpack(fields))
redis.call('HINCRBY', key('states'), 'queued', 1)
redis.call('ZADD', key('owner:' .. owner), now, id)
redis.call('ZADD', key('jobs'), now, id)
local _, model = route_of(id)
redis.call('ZADD', key('models'), now, model)
count('created')
add_usage(id, 'submitted', 1)

if has_copy then
  -- It is never queued: callers see it as finished only.
  set(id, 'cached_from', cached.id, 'result', cached.result, 'expires', as_text(now + args.result_ttl))
  remember_content(id, cached.device, args.result_ttl)
  add_usage(id, 'cached', 1)
  end_job(id, 'finished', args.result_ttl)
  return { 'created', id }
end

-- Start-time fair queueing (Goyal, Vin, Cheng 1996): an owner's next job is tagged where its last one ended, but not
-- before the present, so that a thousand jobs of one owner queue behind the first of another. Each priority is a flow
-- of its own, so that an urgent job does not queue behind the same owner's others; a step up has four times the share.
local flow = owner .. '|' .. args.priority
local finish_tags = key('finish_tags:' .. model)
local tag = math.max(clock(model), tonumber(redis.call('HGET', finish_tags, flow) or '0') or 0)
redis.call('HSET', finish_tags, flow, tag + PRIORITY_SHARE ^ -args.priority)

enter_queue(id, tag)
if args.cancel_after then
  set(id, 'deadline', as_text(now + args.cancel_after))
  redis.call('ZADD', key('deadlines'), now + args.cancel_after, id)
end
notify(id)
return { 'created', id }
