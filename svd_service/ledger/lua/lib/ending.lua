-- The ways in which a job ends.
-- include: base, queue, notify, delivery

-- Records of failed, cancelled and expired jobs cost their owner nothing to make: beyond MAX_ENDED_PER_OWNER the oldest
-- are deleted. A few at a time, so that no call takes long.
local function bound_records(id, owner)
  local records = key('ended_of:' .. owner)
  redis.call('ZADD', records, now, id)
  local surplus = math.min(redis.call('ZCARD', records) - MAX_ENDED_PER_OWNER, 10)
  if surplus < 1 then return end
  for _, oldest in ipairs(redis.call('ZRANGE', records, 0, surplus - 1)) do
    redis.call('ZREM', records, oldest)
    redis.call('ZREM', key('owner:' .. owner), oldest)
    if redis.call('EXISTS', job_key(oldest)) == 1 then
      set(oldest, 'deleted', 1)
      redis.call('ZADD', key('ended'), now, oldest)
    end
  end
end

-- `keep`: seconds until retention looks at the job.
local function end_job(id, state, keep)
  leave_queue(id)
  move(id, state)
  set(id, 'ended', now_text)
  if field(id, 'deleted') then keep = 0 end  -- it has no owner any more: retention takes it in its next round
  redis.call('ZADD', key('ended'), now + keep, id)
  if state ~= 'finished' then bound_records(id, field(id, 'owner')) end
  count('ended|' .. state)
  notify(id)
  write_delivery(id, state)
end

local function fail_job(id, code, message, keep)
  set(id, 'failure_code', code, 'failure_message', message)
  count('failed|' .. code)
  end_job(id, 'failed', keep)
end
