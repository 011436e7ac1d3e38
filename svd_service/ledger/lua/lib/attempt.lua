-- Attempts: the current claim, the end of an attempt, and leases.
-- include: base, routes, queue, notify, loads, ending, usage

-- Whether `token` is the job's current claim.
local function holds(id, token) return field(id, 'state') == 'started' and field(id, 'token') == token end

-- `cause` is why there is no result, if there is a known cause; `measured` the device time of a result, in seconds.
local function close_attempt(id, outcome, cause, measured)
  local number = field(id, 'attempt')
  add_device_time(id, outcome, measured)
  set(id, 'ended:' .. number, now_text, 'outcome:' .. number, outcome)
  local queue = field(id, 'queue')
  if queue then add_load('started', queue, -1) end
  redis.call('HDEL', job_key(id), 'token', 'queue', 'worker', 'claimed', 'phase', 'step', 'steps', 'segment', 'segments',
    REPORTED, 'preview_name')
  redis.call('ZREM', key('leases'), id)
  count('attempts|' .. outcome)
  if cause and cause ~= '' then count('causes|' .. outcome .. '|' .. cause) end
end

-- End an attempt without a result: cancel the job if requested, requeue it while attempts are left, else fail it.
local function requeue_or_end(id, max_attempts, code, message, keep)
  if field(id, 'cancel') then
    end_job(id, 'cancelled', keep)
  elseif is_late(id) then
    fail_job(id, DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_MESSAGE, keep)
  elseif tonumber(field(id, ATTEMPTS)) >= max_attempts then
    fail_job(id, code, message, keep)
  else
    move(id, 'queued')
    local _, model = route_of(id)
    enter_queue(id, clock(model) - 1)  -- it has waited already: before all others
    notify(id)
  end
end

-- Redis' clock was ahead by so many seconds and has been corrected. Nothing may stay in the future until time has caught
-- up: what is due is due as much earlier, and what was seen last in the future was seen now. Retention is left as it is,
-- since it must not delete anything early.
local function set_back(seconds)
  local due, seen = { 'leases', 'posted', 'outbox' }, { 'workers', 'preparing', 'models' }
  for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do due[#due + 1] = ENQUEUED .. ':' .. model end
  for _, queue in ipairs(redis.call('ZRANGE', key('queues'), 0, -1)) do seen[#seen + 1] = 'workers:' .. queue end
  seen[#seen + 1] = 'queues'
  local function in_the_future(name) return redis.call('ZRANGEBYSCORE', key(name), '(' .. now_text, '+inf') end
  for _, name in ipairs(due) do
    for _, id in ipairs(in_the_future(name)) do redis.call('ZINCRBY', key(name), -seconds, id) end
  end
  for _, name in ipairs(seen) do
    for _, member in ipairs(in_the_future(name)) do redis.call('ZADD', key(name), now, member) end
  end
end

-- Workers and maintenance run a script at least every two seconds. A longer pause means that Redis or all of them were
-- down or frozen; the excess counts for no lease. Run this before checking leases.
local MAX_PAUSE = 3
local function record_activity()
  local last = tonumber(redis.call('GET', key(LAST_ACTIVITY)) or '') or now
  redis.call('SET', key(LAST_ACTIVITY), now_text)
  if last - now > MAX_PAUSE then set_back(last - now) end
  local missed = now - last - MAX_PAUSE
  if missed <= 0 then return end
  for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do redis.call('ZINCRBY', key('leases'), missed, id) end
end
