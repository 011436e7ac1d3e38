-- Claim a job for one attempt.
-- Arguments: id, token (new for every claim), holder (JSON), worker (name in the holder), lease (seconds), dead (token of a
-- claim whose holder is known to be dead, or ''), max_attempts, record_ttl (seconds).
-- Returns {'claimed', attempt} | {'held'} | {'ended'} | {'unknown'} | {'not yours'} | {'paused'} |
-- {'held back'}.
-- include: record, attempt, paused, histogram, lost
-- flags: allow-oom
record_activity()
local id = args.id
local state = known_state(id)
if not state then return { 'unknown' } end
if holds(id, args.token) then return { 'claimed', tonumber(field(id, 'attempt')) } end
local queue = redis.call('HGET', key('worker_queue'), args.worker)
if queue and not takes(queue, route_of(id)) then return { 'not yours' } end
if queue then record_arrival(queue, id) end

if state == 'started' then
  local expired = tonumber(redis.call('ZSCORE', key('leases'), id) or '0') < now
  if field(id, 'token') ~= args.dead and not expired then return { 'held' } end
  close_attempt(id, 'lost', WORKER_LOST)
  requeue_or_end(id, args.max_attempts, WORKER_LOST, WORKER_LOST_MESSAGE, args.record_ttl)
  state = field(id, 'state')
end
if fail_if_late(id, state, args.record_ttl) ~= 'queued' then return { 'ended' } end
local _, model = route_of(id)
local held_back = is_held_back(args.worker)
if held_back or pause_of('dispatch', model) then
  -- Its message is consumed, so put the job back at the head of the ledger's queue.
  if redis.call('ZSCORE', key(ENQUEUED .. ':' .. model), id) then
    withdraw(id)
    wait(id, clock(model) - 1)
  end
  return { held_back and 'held back' or 'paused' }
end

leave_queue(id)
local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
redis.call('HINCRBY', job_key(id), ATTEMPTS, 1)
queue = queue or select(2, route_of(id)) .. '|'
add_load('started', queue, 1)
set(id, 'queue', queue, 'token', args.token, 'worker', args.worker, 'claimed', now_text,
  'held:' .. attempt, args.holder, 'began:' .. attempt, now_text)
if redis.call('HSETNX', job_key(id), 'started', now_text) == 1 then
  observe('wait', id, (route_of(id)))
end
redis.call('ZADD', key('leases'), now + args.lease, id)
count('attempts|started')
move(id, 'started')
notify(id)
return { 'claimed', attempt }
