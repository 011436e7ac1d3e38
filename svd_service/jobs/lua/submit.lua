-- Accept a job. ARGV: id, owner, idempotency key or '', fingerprint, seconds to remember that key, priority, most jobs
-- that may wait, most of one owner (other than '': everybody) that may, then the job's fields as name, value, …
-- Answers {'created'|'repeated'|'conflict'|'full'|'owner_full', id}. Repeating it with one id changes nothing.
local id, owner, idempotency_key, fingerprint, remember = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local priority, max_queued, max_of_owner = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
if redis.call('EXISTS', job_key(id)) == 1 then return { 'repeated', id } end

local idempotency = key('idempotency:' .. owner .. ':' .. idempotency_key)
if idempotency_key ~= '' then
  local earlier = redis.call('HMGET', idempotency, 'id', 'fingerprint')
  -- A job that was deleted since leaves its key free again.
  if earlier[1] and redis.call('EXISTS', job_key(earlier[1])) == 1 and not field(earlier[1], 'deleted') then
    return { earlier[2] == fingerprint and 'repeated' or 'conflict', earlier[1] }
  end
end

if redis.call('ZCARD', key('queued')) >= max_queued then return { 'full', id } end
local queued_of_owner = tonumber(redis.call('HGET', key('queued_of'), owner) or '0')
if owner ~= '' and queued_of_owner >= max_of_owner then return { 'owner_full', id } end

if idempotency_key ~= '' then
  redis.call('HSET', idempotency, 'id', id, 'fingerprint', fingerprint)
  redis.call('EXPIRE', idempotency, remember)
end

-- Start-time fair queueing (Goyal, Vin, Cheng 1996): an owner's next job is tagged where its last one ended, but not
-- before the present, so that a thousand jobs of one owner stand behind the first of another. Each priority is a flow
-- of its own, so that an urgent job need not stand behind the same owner's others; a step up has four times the share.
local flow = owner .. '|' .. priority
local tag = math.max(clock(), tonumber(redis.call('HGET', key('finish_tags'), flow) or '0'))
redis.call('HSET', key('finish_tags'), flow, tag + 4 ^ -tonumber(priority))

set(id, 'state', 'queued', 'owner', owner, 'created', now_text, 'attempt', 0, 'tries', 0, 'version', 0,
  'priority', priority)
set(id, unpack(ARGV, 9))
redis.call('HINCRBY', key('states'), 'queued', 1)
enter_queue(id, tag)
redis.call('ZADD', key('owner:' .. owner), now, id)
count('created')
announce(id)
return { 'created', id }
