-- Accept a job. ARGV: id, owner, idempotency key or '', fingerprint, seconds to remember that key, priority, most jobs
-- that may wait, most of one owner (other than '': everybody) that may, seconds to keep a result, an earlier job that
-- made the same video ('': there is none, '-': nobody looked), the result that this job has as a copy of that one's, the
-- device that made it, then the job's fields as name, value, …
-- Answers {'created'|'repeated'|'conflict'|'full'|'owner_full', id}. Repeating it with one id changes nothing.
local id, owner, idempotency_key, fingerprint, remember = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local priority, max_queued, max_of_owner = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local keep, same, copy, device = tonumber(ARGV[9]), ARGV[10], ARGV[11], ARGV[12]
if redis.call('EXISTS', job_key(id)) == 1 then return { 'repeated', id } end

local idempotency = key('idempotency:' .. owner .. ':' .. idempotency_key)
if idempotency_key ~= '' then
  local earlier = redis.call('HMGET', idempotency, 'id', 'fingerprint')
  -- A job that was deleted since leaves its key free again.
  if earlier[1] and redis.call('EXISTS', job_key(earlier[1])) == 1 and not field(earlier[1], 'deleted') then
    return { earlier[2] == fingerprint and 'repeated' or 'conflict', earlier[1] }
  end
end

-- Whoever looked, looked a moment ago: by now the earlier job may be deleted or past its time.
local has_copy = copy ~= '' and is_reusable(same, owner)
if not has_copy then
  if tonumber(redis.call('HGET', key('states'), 'queued') or '0') >= max_queued then return { 'full', id } end
  local queued_of_owner = tonumber(redis.call('HGET', key('queued_of'), owner) or '0')
  if owner ~= '' and queued_of_owner >= max_of_owner then return { 'owner_full', id } end
end
if same ~= '-' then count('cache|' .. (has_copy and 'hit' or 'miss')) end

if idempotency_key ~= '' then
  redis.call('HSET', idempotency, 'id', id, 'fingerprint', fingerprint)
  redis.call('EXPIRE', idempotency, remember)
end

set(id, 'state', 'queued', 'owner', owner, 'created', now_text, 'attempt', 0, 'tries', 0, 'version', 0,
  'priority', priority)
set(id, unpack(ARGV, 13))
redis.call('HINCRBY', key('states'), 'queued', 1)
redis.call('ZADD', key('owner:' .. owner), now, id)
local _, model = route_of(id)
redis.call('ZADD', key('models'), now, model)
count('created')

if has_copy then
  -- It never waits: nobody sees it other than finished.
  set(id, 'cached_from', same, 'result', copy, 'expires', string.format('%.6f', now + keep))
  remember_content(id, device, keep)
  end_job(id, 'finished', keep)
  return { 'created', id }
end

-- Start-time fair queueing (Goyal, Vin, Cheng 1996): an owner's next job is tagged where its last one ended, but not
-- before the present, so that a thousand jobs of one owner stand behind the first of another. Each priority is a flow
-- of its own, so that an urgent job need not stand behind the same owner's others; a step up has four times the share.
local flow = owner .. '|' .. priority
local finish_tags = key('finish_tags:' .. model)
local tag = math.max(clock(model), tonumber(redis.call('HGET', finish_tags, flow) or '0'))
redis.call('HSET', finish_tags, flow, tag + 4 ^ -tonumber(priority))

enter_queue(id, tag)
announce(id)
return { 'created', id }
