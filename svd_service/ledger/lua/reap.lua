-- Requeue or end jobs whose lease expired (`requeue_or_end` of lib/attempt.lua: to the head of the queue, or failed after
-- max_attempts), fail queued ones past their deadline, and find enqueued ids whose message was lost or rejected.
-- (The job of a dead process is requeued sooner: by worker/maintenance.py if its worker lives, or by claim.lua when a
-- message of the job is delivered again.)
-- Arguments: max_attempts, record_ttl (seconds), enqueue_again_after (seconds after which an enqueued id that a worker
-- should have claimed is enqueued again), worker_timeout (seconds without heartbeat), max_refusals.
-- Returns {ids whose lease expired, {id to enqueue again, its queue, …}, ids dropped because of damaged records}.
-- include: record, attempt, workers, recount, history, lost
-- flags: allow-oom
record_activity()
forget_workers()
local lost = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, 100)) do
  if is_usable(id, 'started', 'leases') then
    close_attempt(id, 'lost', WORKER_LOST)
    requeue_or_end(id, args.max_attempts, WORKER_LOST, WORKER_LOST_MESSAGE, args.record_ttl)
    lost[#lost + 1] = id
  end
end

-- A started job past its deadline is stopped by its worker (progress.lua), or fails when it would be requeued.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', now, 'LIMIT', 0, 100)) do
  fail_if_late(id, known_state(id), args.record_ttl)
  redis.call('ZREM', key('deadlines'), id)
end

local at_work = queues_at_work(args.worker_timeout)
local function is_taken_elsewhere(id)
  local route = route_of(id)
  for queue in pairs(at_work) do
    if takes(queue, route) then return true end
  end
  return false
end

-- An enqueued id waits as intended while the workers of its queue are busy. If its message was lost (lib/lost.lua), or the
-- worker rejected it: enqueue it again, and free its slot so that another job is enqueued, too. After `max_refusals`
-- in a row it moves to the back of the queue, so that it delays no other job. A message that arrives after all does no
-- harm: a job is claimed only once. If no worker takes from its queue any more, but one takes from another queue that
-- accepts it, it is requeued.
local overdue = {}
local is_lost = loss_detector(at_work, args.enqueue_again_after)
local function enqueue_again_or_requeue(model, id)
  local queue = field(id, 'queue') or ''
  if is_lost(queue, tonumber(redis.call('ZSCORE', key(ENQUEUED .. ':' .. model), id))) then
    if redis.call('HINCRBY', job_key(id), UNCLAIMED, 1) > args.max_refusals then
      withdraw(id)
      wait(id, last_tag(model))
      redis.call('HDEL', job_key(id), UNCLAIMED)
      count('refused_by_celery')
    else
      free_slot(id, queue)
      redis.call('ZADD', key(ENQUEUED .. ':' .. model), now, id)
      overdue[#overdue + 1] = id
      overdue[#overdue + 1] = queue
    end
  elseif not at_work[queue] and is_taken_elsewhere(id) then
    withdraw(id)
    wait(id, clock(model) - 1)
  end
end

for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
  local enqueued = ENQUEUED .. ':' .. model
  local waiting_since = now - args.enqueue_again_after
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key(enqueued), '-inf', waiting_since, 'LIMIT', 0, 1000)) do
    if is_usable(id, 'queued', enqueued) then enqueue_again_or_requeue(model, id) end
  end
end

local oldest = now
for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
  for _, profile in ipairs(PROFILES) do
    local first = redis.call('ZRANGE', key('queued:' .. model .. '|' .. profile), 0, 0, 'WITHSCORES')
    oldest = math.min(oldest, tonumber(first[2] or '') or now)
  end
end
record_queue_age(now - oldest)

local dropped = redis.call('ZRANGE', key('discarded'), 0, -1)
if #dropped > 0 then
  recount()
  redis.call('DEL', key('discarded'))
end
return { lost, overdue, dropped }
