-- Which enqueued ids lost their message. Celery's queue is not read. It is a list, first in, first out, and an idle worker
-- takes the next message at once, so the message of an id is lost if
-- - a worker has been idle for some time, and no message has arrived; not sooner, since a worker that has ended a job is
--   idle until it has asked Celery for the next: a few milliseconds, or seconds if the artifact store is slow;
-- - or the message of an id that was enqueued later has arrived. Where messages arrive all the time, only this shows it.
-- include: attempt, loads

-- A message of this job has reached a worker of `queue`. If there were several it may be any of them, and was sent no
-- earlier than the first.
local function record_arrival(queue, id)
  redis.call('HDEL', key('idle_since'), queue)
  local enqueued = field(id, 'enqueued')
  local at = tonumber(enqueued or '')
  local latest = tonumber(redis.call('HGET', key('arrived'), queue) or '') or 0
  if at and at <= now and at > latest then redis.call('HSET', key('arrived'), queue, enqueued) end
end

-- For each queue with an idle worker the time since when there has been one and no message has arrived. A longer pause
-- between two rounds does not count: Redis or all workers were down or frozen, and no worker could ask for a message.
local function watch_idle_workers(at_work)
  local observed = tonumber(redis.call('HGET', key('idle_since'), 'observed') or '') or now
  local missed = math.max(now - observed - MAX_PAUSE, 0)
  local idle_since = {}
  for queue, workers in pairs(at_work) do
    if workers > load_of('started', queue) then
      local since = (tonumber(redis.call('HGET', key('idle_since'), queue) or '') or now) + missed
      idle_since[queue] = since <= now and since or now
    end
  end
  redis.call('DEL', key('idle_since'))
  redis.call('HSET', key('idle_since'), 'observed', now_text)
  for queue, since in pairs(idle_since) do redis.call('HSET', key('idle_since'), queue, as_text(since)) end
  return idle_since
end

-- For each queue when the latest message to arrive was enqueued. Queues without workers are forgotten, and so is what is in
-- the future, after Redis' clock has been corrected.
local function latest_arrivals(at_work)
  local latest, stored = {}, redis.call('HGETALL', key('arrived'))
  for i = 1, #stored, 2 do
    local queue, at = stored[i], tonumber(stored[i + 1])
    if at_work[queue] and at and at <= now then latest[queue] = at else redis.call('HDEL', key('arrived'), queue) end
  end
  return latest
end

-- A function that says whether the message of an id that was enqueued on `queue` at `enqueued` is lost. `patience` (seconds)
-- is longer than the gap between two jobs of a worker, and than it takes to send a message after its id was chosen.
local function loss_detector(at_work, patience)
  local idle_since, latest = watch_idle_workers(at_work), latest_arrivals(at_work)
  return function(queue, enqueued)
    return now - (idle_since[queue] or now) >= patience or (latest[queue] or 0) - enqueued > patience
  end
end
